"""What a finished run leaves for a person: a table, curves, pictures."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from agvm_jax.evaluation.reports.detection import write_detection_report
from agvm_jax.visualization import plots


def write_run_report(
    folder: Path,
    *,
    step: int,
    evaluator: Any,
    load_image: Callable[[int], np.ndarray],
    notes: Iterable[str],
    log: logging.Logger,
) -> None:
    """Prints the table, draws the curves and says where everything lies.

    Args:
      folder: the run folder.
      step: the last step.
      evaluator: a `DetectionEvaluator` after its evaluation of that step.
      load_image: image id -> (H, W, 3) uint8 RGB, for the best and worst images.
      notes: sentences that follow the table, such as what a larger batch would bring.
      log: where it is said.
    """
    target = Path(folder) / "eval" / str(step)
    write_detection_report(evaluator, target, load_image)
    curves = plots.plot_run(folder / "metrics.jsonl", folder / "plots")
    log.info("\n%s", evaluator.table())
    for note in notes:
        log.info("\n%s", note)
    log.info("\nrun folder   %s", folder)
    if curves:
        log.info("curves       %s", curves[-1])
    log.info("detections   %s", target)
