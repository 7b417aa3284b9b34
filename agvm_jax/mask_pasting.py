"""Masks predicted inside boxes, put back into their images and run-length coded."""

from typing import NamedTuple

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
      box: (4,) x1 y1 x2 y2 in pixels of the image; may reach beyond it.
      height, width: of the image.

    Returns:
      The mask in column-major (Fortran) order, which run-length coding wants.
    """
    x1, y1, x2, y2 = (float(side) for side in box)
    rows = _neighbours(y1, y2, mask.shape[0], height)
    columns = _neighbours(x1, x2, mask.shape[1], width)
    pasted = np.zeros((height, width), np.uint8, order="F")
    if rows.pixels.size and columns.pixels.size:
        # Gathered, not multiplied: a threaded matrix product starves beside JAX.
        padded = np.pad(mask.astype(np.float32), 1)
        tall = rows.mix(padded)  # (rows, m + 2)
        inside = columns.mix(np.ascontiguousarray(tall.T)) >= 0.5  # (columns, rows)
        pasted[rows.span, columns.span] = inside.T
    return pasted


def encode_mask(mask: np.ndarray) -> bytes:
    """Return COCO's compressed run lengths of a (H, W) uint8 mask."""
    return hotcoco.mask.encode(np.asfortranarray(mask))["counts"]


class _Neighbours(NamedTuple):
    """The pixels along one side whose centre is in the box, and where each looks."""

    pixels: np.ndarray  # (n,) rising by one
    cell: np.ndarray  # (n,) the first of two cells, in a mask padded by one
    share: np.ndarray  # (n, 1) of the second cell

    @property
    def span(self) -> slice:
        return slice(self.pixels[0], self.pixels[-1] + 1)

    def mix(self, cells: np.ndarray) -> np.ndarray:
        return cells[self.cell] * (1 - self.share) + cells[self.cell + 1] * self.share


def _neighbours(start: float, end: float, cells: int, pixels: int) -> _Neighbours:
    first = max(int(np.ceil(start - 0.5)), 0)
    last = min(int(np.floor(end - 0.5)), pixels - 1)
    index = np.arange(first, last + 1 if end > start else first)
    # The padding shifts cell centres by one: cell 0 of the mask is cell 1 here.
    position = (index + 0.5 - start) / max(end - start, 1e-12) * cells + 0.5
    cell = np.minimum(position.astype(np.int64), cells)
    return _Neighbours(index, cell, (position - cell)[:, None].astype(np.float32))
