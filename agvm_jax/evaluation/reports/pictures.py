"""Pictures in a report: which images are shown, and validation images with boxes."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from agvm_jax.structures import Batch, Predictions
from agvm_jax.visualization.drawing import draw_detections, save_contact_sheet


def best_and_worst(ranking: Sequence[int], most: int) -> dict[str, list[int]]:
    """Return "best", the best image first, and "worst", the worst first.

    No image is in both: of a few images the better half are the best.

    Args:
      ranking: image ids from best to worst.
      most: how many images each may have.
    """
    best = list(ranking[: min(most, (len(ranking) + 1) // 2)])
    return {"best": best, "worst": list(ranking[len(best) :][::-1][:most])}


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
        pictures += draw_batch(batch, predictions, class_names)
        ids = np.asarray(batch.image_id)
        titles += [f"image {number}" for number in ids[ids >= 0]]
        if len(pictures) >= count:
            break  # before another batch is predicted
    paths = []
    for picture, title in list(zip(pictures, titles, strict=True))[:count]:
        path = target / f"{title.replace(' ', '_')}.png"
        save_contact_sheet([picture], path)
        paths.append(path)
    if paths:
        sheet = target / "detections.png"
        save_contact_sheet(pictures[:count], sheet, titles[:count])
        paths.append(sheet)
    return paths


def draw_batch(
    batch: Batch,
    predictions: Predictions,
    class_names: Sequence[str],
    *,
    score_threshold: float = 0.3,
    min_side: int = 480,
) -> list[np.ndarray]:
    """Draw every real image of a batch, without its padding.

    Args:
      batch: host arrays. Boxes that are valid are drawn as ground truth, or as crowds.
      predictions: host arrays of the same rows.
      class_names, score_threshold, min_side: as in `draw_detections`.
    """
    pictures = []
    for row in np.flatnonzero(np.asarray(batch.image_id) >= 0):
        height, width = np.asarray(batch.image_size)[row]
        truth, crowd = np.asarray(batch.valid)[row], np.asarray(batch.crowd)[row]
        found = np.asarray(predictions.valid)[row]
        pictures.append(
            draw_detections(
                np.ascontiguousarray(np.asarray(batch.image)[row, :height, :width]),
                np.asarray(predictions.boxes)[row][found],
                np.asarray(predictions.classes)[row][found],
                np.asarray(predictions.scores)[row][found],
                class_names,
                np.asarray(batch.boxes)[row][truth & ~crowd],
                crowds=np.asarray(batch.boxes)[row][truth & crowd],
                masks=None
                if predictions.masks is None
                else np.asarray(predictions.masks)[row][found],
                score_threshold=score_threshold,
                min_side=min_side,
            )
        )
    return pictures
