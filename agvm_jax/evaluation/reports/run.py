"""What a finished run leaves for a person: a table, curves, images."""

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from agvm_jax.visualization import plots


class Reported(Protocol):
    """What is asked of a task: see `tasks.Task`."""

    curves: Sequence[str]
    reports: Callable[[Any, Path, Callable[[int], np.ndarray]], list[Path]]


def write_run_report(
    folder: Path,
    *,
    step: int,
    task: Reported,
    evaluator: Any,
    load_image: Callable[[int], np.ndarray],
    notes: Iterable[str],
    log: logging.Logger,
) -> None:
    """Prints the table, draws the curves and says where everything lies.

    Args:
      folder: the run folder.
      step: the last step.
      task: what was measured, a `tasks.Task`.
      evaluator: the task's, after its evaluation of that step.
      load_image: image id -> (H, W, 3) uint8 RGB, for the best and worst images.
      notes: sentences that follow the table, such as what a larger batch would bring.
      log: where it is said.
    """
    target = Path(folder) / "eval" / str(step)
    task.reports(evaluator, target, load_image)
    metrics = folder / "metrics.jsonl"
    curves = plots.plot_run(metrics, folder / "plots", task.curves)
    log.info("\n%s", evaluator.table())
    for note in notes:
        log.info("\n%s", note)
    log.info("\nrun folder   %s", folder)
    if curves:
        log.info("curves       %s", curves[-1])
    log.info("evaluation   %s", target)
