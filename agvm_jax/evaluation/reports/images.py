"""Images in a report: the best, the worst, and what was found, drawn over them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from agvm_jax.evaluation.metrics.pixel_counts import enlarge_labels
from agvm_jax.structures import Batch, Predictions
from agvm_jax.visualization.drawing import (
    draw_detections,
    draw_labels,
    save_contact_sheet,
)


def best_and_worst(ranking: Sequence[int], most: int) -> dict[str, list[int]]:
    """Return "best", the best image first, and "worst", the worst first.

    No image is in both: of a few images the better half are the best.

    Args:
      ranking: image ids from best to worst.
      most: how many images each may have.
    """
    best = list(ranking[: min(most, (len(ranking) + 1) // 2)])
    return {"best": best, "worst": list(ranking[len(best) :][::-1][:most])}


def write_images(
    folder: Path,
    step: int,
    examples: Iterable[tuple[Any, Any]],
    class_names: tuple[str, ...],
    count: int,
    label_names: tuple[str, ...] = (),
) -> list[Path]:
    """Draws what was found over validation images, true boxes dashed.

    Args:
      folder: the run folder; images go to ``eval/<step>/``.
      step: the step whose detections these are.
      examples: (Batch, Predictions) pairs.
      class_names: names of classes 0..K-1.
      count: how many images at most; for 0 nothing is drawn, nor asked of `examples`.
      label_names: names of the labels of pixels, where there are any.

    Returns:
      One PNG an image, and last a sheet with all of them.
    """
    if count < 1:
        return []
    target = Path(folder) / "eval" / str(step)
    target.mkdir(parents=True, exist_ok=True)
    images, titles = [], []
    for batch, predictions in examples:
        batch, predictions = jax.device_get((batch, predictions))
        images += draw_batch(batch, predictions, class_names, label_names)
        ids = np.asarray(batch.image_id)
        titles += [f"image {number}" for number in ids[ids >= 0]]
        if len(images) >= count:
            break  # before another batch is predicted
    paths = []
    for image, title in list(zip(images, titles, strict=True))[:count]:
        path = target / f"{title.replace(' ', '_')}.png"
        save_contact_sheet([image], path)
        paths.append(path)
    if paths:
        sheet = target / "detections.png"
        save_contact_sheet(images[:count], sheet, titles[:count])
        paths.append(sheet)
    return paths


def draw_batch(
    batch: Batch,
    predictions: Predictions,
    class_names: Sequence[str],
    label_names: Sequence[str] = (),
    *,
    score_threshold: float = 0.3,
    min_side: int = 480,
) -> list[np.ndarray]:
    """Draw every real image of a batch, without its padding.

    Args:
      batch: host arrays. Boxes that are valid are drawn as ground truth, or as crowds.
      predictions: host arrays of the same rows. Labels lie below boxes; either may be
        absent.
      class_names: names of the boxes' classes.
      label_names: names of the labels of pixels, where there are any.
      score_threshold, min_side: as in `drawing.draw_detections`.
    """
    images = []
    for row in np.flatnonzero(np.asarray(batch.image_id) >= 0):
        height, width = np.asarray(batch.image_size)[row]
        image = np.asarray(batch.image)[row]
        padded = image.shape[:2]
        image = np.ascontiguousarray(image[:height, :width])
        if predictions.semantic is not None:
            labels = np.asarray(predictions.semantic)[row]
            labels = enlarge_labels(labels, (height, width), padded, (height, width))
            image = draw_labels(image, labels, label_names, min_side=min_side)
        if predictions.boxes is None:
            images.append(image)
            continue
        scale = np.array(image.shape[1::-1] * 2) / (width, height, width, height)
        true_boxes = np.asarray(batch.boxes)[row] * scale
        truth, crowd = np.asarray(batch.valid)[row], np.asarray(batch.crowd)[row]
        found = np.asarray(predictions.valid)[row]
        images.append(
            draw_detections(
                image,
                np.asarray(predictions.boxes)[row][found] * scale,
                np.asarray(predictions.classes)[row][found],
                np.asarray(predictions.scores)[row][found],
                class_names,
                true_boxes[truth & ~crowd],
                crowds=true_boxes[truth & crowd],
                masks=None
                if predictions.masks is None
                else np.asarray(predictions.masks)[row][found],
                score_threshold=score_threshold,
                min_side=min_side,
            )
        )
    return images
