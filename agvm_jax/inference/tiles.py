"""Large images by tiles: small objects keep their pixels.

An image is looked at whole, for what is larger than a tile, and in square tiles that
overlap, each resized as any image is. What is found twice is one object: of two of one
class that share half of the smaller one's area, that with the higher score stays. As in
"Slicing Aided Hyper Inference" (Akyon et al., 2022).
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from agvm_jax.data.annotations.errors import UnreadableImage
from agvm_jax.inference.found import Found
from agvm_jax.inference.images import Image, Opened, open_image
from agvm_jax.inference.trained import Trained

Corners = tuple[int, int, int, int]  # x1 y1 x2 y2
OVERLAP = 0.2  # of a tile's side
SHARED = 0.5  # of the smaller box's area


def tiles_of(height: int, width: int, side: int) -> list[Corners]:
    """Returns the tiles of an image, [] where it is no larger than one.

    Args:
      height, width: of the image.
      side: pixels of a tile; the last one of a row or column ends at the border.

    >>> tiles_of(100, 180, 100)
    [(0, 0, 100, 100), (80, 0, 180, 100)]
    """
    if max(height, width) <= side:
        return []
    rows, columns = _starts(height, side), _starts(width, side)
    return [
        (x, y, min(x + side, width), min(y + side, height))
        for y in rows
        for x in columns
    ]


def _starts(length: int, side: int) -> list[int]:
    if length <= side:
        return [0]
    step = side * (1 - OVERLAP)
    count = math.ceil((length - side) / step) + 1
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def predict_by_tiles(
    model: Trained, image: Image, side: int, score: float = 0.0
) -> tuple[Opened, Found]:
    """Predicts one image, whole and by tiles.

    Args:
      model: whose outputs are boxes, and masks if there are any.
      image: as `Trained.predict` takes it.
      side: of a tile, pixels of the image.
      score: objects below it are left out.

    Returns:
      The opened image, and the objects found in it.

    Raises:
      ValueError: the model gives labels of pixels, or a side that is no size.
      UnreadableImage: as of `Trained.predict`.
    """
    check_tiles(model, side)
    opened = open_image(image, model.card.exif)
    try:
        pixels = opened.image()
    except UnreadableImage as error:
        raise UnreadableImage(f"{opened.name} {error}.") from error
    corners = tiles_of(*opened.size, side)
    parts = [pixels, *(pixels[y1:y2, x1:x2] for x1, y1, x2, y2 in corners)]
    found = [one for _, one in model.predict_each(parts, score)]
    offsets = [(0, 0), *((x1, y1) for x1, y1, _, _ in corners)]
    return opened, dataclasses.replace(_merged(found, offsets), name=opened.name)


def each_by_tiles(
    model: Trained, images: Iterable[Image], side: int, score: float = 0.0
) -> Iterator[tuple[Opened | None, Found | UnreadableImage]]:
    """Predicts images as they come, as `Trained.predict_each` does, by tiles."""
    for image in images:
        try:
            yield predict_by_tiles(model, image, side, score)
        except UnreadableImage as error:
            yield None, error


def check_tiles(model: Trained, side: int) -> None:
    """Raises ValueError where a model cannot be used by tiles of this side."""
    if side < 1:
        raise ValueError(f"a tile of {side} pixels is none: name its side in pixels.")
    if "semantic" in model.card.outputs:
        raise ValueError(
            "tiles are for models that find boxes or masks, and this one gives labels"
            " of pixels: see model.test_cfg for looking at windows of an image."
        )


def _merged(found: Sequence[Found], offsets: Sequence[tuple[int, int]]) -> Found:
    """Puts what was found in tiles together; the first is the whole image."""
    whole = found[0]
    boxes = np.concatenate(
        [one.boxes + (x, y, x, y) for one, (x, y) in zip(found, offsets, strict=True)]
    )
    scores = np.concatenate([one.scores for one in found])
    classes = np.concatenate([one.classes for one in found])
    kept = distinct(boxes, scores, classes)
    fields: dict[str, Any] = {}
    if whole.masks is not None:
        origin = [(t, i) for t, one in enumerate(found) for i in range(len(one))]
        masks = np.zeros((len(kept), *whole.size), bool)
        for mask, k in zip(masks, kept.tolist(), strict=True):
            (t, i), (x, y) = origin[k], offsets[origin[k][0]]
            height, width = found[t].size
            mask[y : y + height, x : x + width] = found[t].masks[i]
        fields["masks"] = masks
    return dataclasses.replace(
        whole,
        boxes=boxes[kept],
        scores=scores[kept],
        classes=classes[kept],
        names=tuple(whole.card.class_names[k] for k in classes[kept].tolist()),
        **fields,
    )


def distinct(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Returns which objects stay, best first: (k,) places among n.

    Args:
      boxes: (n, 4).
      scores, classes: (n,).
    """
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    waiting, kept = np.argsort(-scores, kind="stable"), []
    while len(waiting):
        best, waiting = waiting[0], waiting[1:]
        kept.append(best)
        corner = np.minimum(boxes[best, 2:], boxes[waiting, 2:])
        inside = np.maximum(boxes[best, :2], boxes[waiting, :2])
        shared = np.clip(corner - inside, 0, None).prod(axis=1)
        smaller = np.minimum(areas[best], areas[waiting])
        same = classes[best] == classes[waiting]
        waiting = waiting[~(same & (shared > SHARED * smaller))]
    return np.array(kept, np.int64)
