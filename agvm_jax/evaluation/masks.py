"""Masks predicted inside boxes, put back into their pictures and run-length coded."""

import hotcoco
import numpy as np


def paste_mask(
    mask: np.ndarray, box: np.ndarray, height: int, width: int
) -> np.ndarray:
    """Return a (height, width) uint8 mask, 1 where the probability is 0.5 or more.

    A pixel's centre is looked up in the mask by bilinear interpolation, where cell
    (i, j) has its centre at (i + 0.5, j + 0.5) in an m x m mask that is stretched over
    the box, and everything outside is 0, so that no pixel whose centre is outside the
    box reaches 0.5. That is how detectron2 pastes; torchvision rounds the box to whole
    pixels first.

    Args:
      mask: (m, m) float probabilities.
      box: (4,) x1 y1 x2 y2 in pixels of the picture; may reach beyond it.
      height, width: of the picture.

    Returns:
      The mask in column-major (Fortran) order, which run-length coding wants.
    """
    x1, y1, x2, y2 = (float(side) for side in box)
    rows, row_weights = _weights(y1, y2, mask.shape[0], height)
    columns, column_weights = _weights(x1, x2, mask.shape[1], width)
    picture = np.zeros((height, width), np.uint8, order="F")
    if len(rows) and len(columns):
        inside = row_weights @ mask.astype(np.float32) @ column_weights.T >= 0.5
        picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = inside
    return picture


def encode_mask(picture: np.ndarray) -> bytes:
    """Return COCO's compressed run lengths of a (H, W) uint8 mask."""
    return hotcoco.mask.encode(np.asfortranarray(picture))["counts"]


def _weights(
    start: float, end: float, cells: int, pixels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels with centres in [start, end], and their hat functions, (n, cells)."""
    first = max(int(np.ceil(start - 0.5)), 0)
    last = min(int(np.floor(end - 0.5)), pixels - 1)
    index = np.arange(first, last + 1)
    if end <= start:
        return index[:0], np.zeros((0, cells), np.float32)
    position = (index + 0.5 - start) / (end - start) * cells - 0.5
    distance = np.abs(position[:, None] - np.arange(cells))
    return index, np.maximum(0, 1 - distance).astype(np.float32)
