"""What a finished run leaves for a person: AP table, curves, pictures with boxes."""

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from agvm_jax import drawing, plots
from agvm_jax.optim.noise import useful_batch_sentence


def write_evaluation(
    folder: Path, step: int, results: Mapping[str, float], evaluator: Any
) -> None:
    """Writes ``eval/<step>/``: the numbers, per class too, and every detection.

    Args:
      folder: the run folder.
      step: the step that was evaluated.
      results: what `evaluator.compute` returned.
      evaluator: a `DetectionEvaluator` after its evaluation.
    """
    target = Path(folder) / "eval" / str(step)
    target.mkdir(parents=True, exist_ok=True)
    per_class = [
        {"class": name, "AP": ap, "AP50": ap50, "objects": objects}
        for name, ap, ap50, objects in evaluator.per_class()
    ]
    numbers = {"step": step, **results, "per_class": per_class}
    (target / "metrics.json").write_text(json.dumps(numbers, indent=2) + "\n", "utf-8")
    detections = json.dumps(evaluator.detections())
    (target / "detections.json").write_text(detections, "utf-8")


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
      count: how many images at most; nothing is drawn for 0.

    Returns:
      One PNG an image, and last a sheet with all of them.
    """
    target = Path(folder) / "eval" / str(step)
    target.mkdir(parents=True, exist_ok=True)
    pictures, titles = [], []
    for batch, predictions in examples:
        if len(pictures) >= count:
            break
        batch, predictions = jax.device_get((batch, predictions))
        pictures += drawing.draw_batch(batch, predictions, class_names)
        ids = np.asarray(batch.image_id)
        titles += [f"image {number}" for number in ids[ids >= 0]]
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
    scales: Mapping[str, float],
    batch_size: int,
    log: logging.Logger,
) -> None:
    """Prints the AP table, draws the curves and says what a larger batch would bring.

    Args:
      folder: the run folder.
      step: the last step.
      evaluator: after its evaluation of that step.
      scales: gradient noise scale per module and for "all"; {} when not measured.
      batch_size: the run's.
      log: where it is said.
    """
    log.info("\n%s", evaluator.table())
    if scales:
        log.info("\n%s", useful_batch_sentence(scales, batch_size))
    curves = plots.plot_run(folder / "metrics.jsonl", folder / "plots")
    log.info("\nrun folder   %s", folder)
    if curves:
        log.info("curves       %s", folder / "plots")
    log.info("detections   %s", folder / "eval" / str(step))
