"""What a finished run leaves for a person: AP table, curves, pictures with boxes."""

import logging
import math
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from agvm_jax.evaluation.reports import detection as evaluation_report
from agvm_jax.optim.noise import useful_batch_sentence
from agvm_jax.training.metrics import read_metrics
from agvm_jax.visualization import drawing, plots


def write_pictures(
    folder: Path,
    step: int,
    examples: Iterable[tuple[Any, Any]],
    class_names: tuple[str, ...],
    count: int,
) -> list[Path]:
    """Draws detections over validation images, ground truth dashed.

    Args:
      folder: the run folder; pictures go to ``eval/<step>/``.
      step: the step whose detections these are.
      examples: (Batch, Predictions) pairs.
      class_names: names of classes 0..K-1.
      count: how many images at most; for 0 nothing is drawn, nor asked of `examples`.

    Returns:
      One PNG an image, and last a sheet with all of them.
    """
    if count < 1:
        return []
    target = Path(folder) / "eval" / str(step)
    target.mkdir(parents=True, exist_ok=True)
    pictures, titles = [], []
    for batch, predictions in examples:
        batch, predictions = jax.device_get((batch, predictions))
        pictures += drawing.draw_batch(batch, predictions, class_names)
        ids = np.asarray(batch.image_id)
        titles += [f"image {number}" for number in ids[ids >= 0]]
        if len(pictures) >= count:
            break  # before another batch is predicted
    paths = []
    for picture, title in list(zip(pictures, titles, strict=True))[:count]:
        path = target / f"{title.replace(' ', '_')}.png"
        drawing.save_contact_sheet([picture], path)
        paths.append(path)
    if paths:
        sheet = target / "detections.png"
        drawing.save_contact_sheet(pictures[:count], sheet, titles[:count])
        paths.append(sheet)
    return paths


def write_report(
    folder: Path,
    *,
    step: int,
    evaluator: Any,
    load_image: Callable[[int], np.ndarray],
    batch_size: int,
    log: logging.Logger,
) -> None:
    """Prints the AP table, draws the curves and says what a larger batch would bring.

    Args:
      folder: the run folder.
      step: the last step.
      evaluator: a `DetectionEvaluator` after its evaluation of that step.
      load_image: image id -> (H, W, 3) uint8 RGB, for the best and worst images.
      batch_size: the run's.
      log: where it is said.
    """
    target = Path(folder) / "eval" / str(step)
    evaluation_report.write_report(evaluator, target, load_image)
    curves = plots.plot_run(folder / "metrics.jsonl", folder / "plots")
    log.info("\n%s", evaluator.table())
    if scales := typical_noise_scales(folder):
        log.info("\n%s", useful_batch_sentence(scales, batch_size))
    log.info("\nrun folder   %s", folder)
    if curves:
        log.info("curves       %s", curves[-1])
    log.info("detections   %s", target)


def typical_noise_scales(folder: Path) -> dict[str, float]:
    """Returns the median over a run of the noise scale, per module and for "all".

    The last value alone would speak of the end only, where the rate has decayed and
    little but noise is left.

    Args:
      folder: the run folder.

    Returns:
      In images; inf where at least half of the time no signal stood out. {} when it
      was never measured.
    """
    values: dict[str, list[float]] = {}
    for line in read_metrics(Path(folder) / "metrics.jsonl"):
        for name, value in line.items():
            if name.startswith("noise_scale/"):
                # A scale without bound is written as null.
                values.setdefault(name.removeprefix("noise_scale/"), []).append(
                    math.inf if value is None else value
                )
    return {name: statistics.median_low(found) for name, found in values.items()}
