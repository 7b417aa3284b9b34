"""Instance masks: from polygons and run lengths to bitmaps of each box, and to m x m.

A mask is kept as the bitmap of its box: the smallest window of whole pixels around it.
What lies outside the box is never looked at, so a picture with thirty small objects
costs thirty small bitmaps and not thirty pictures.
"""

import zlib
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from agvm_jax.data.annotations.errors import DataError

Segmentation = list[np.ndarray] | dict[str, Any] | None
"""Polygons ((2p,) float64 x y x y ...), or COCO run lengths, or nothing."""

# Polygons are filled on finer pixels: OpenCV paints their outline too, half a pixel
# too wide. At most 8 to a pixel, and fewer where 512 to the window's side are enough.
_FINEST = 8
_FILL_SIDE = 512


def encloses(points: np.ndarray) -> bool:
    """Whether a polygon, (2p,) x y x y ..., encloses anything: not all on one line."""
    if len(points) < 6:
        return False
    edges = points.reshape(-1, 2)[1:] - points[:2]
    far = edges[np.argmax(np.abs(edges).max(axis=1))]
    return bool((edges[:, 0] * far[1] != edges[:, 1] * far[0]).any())


def windows(boxes: np.ndarray) -> np.ndarray:
    """(n, 4) boxes x1 y1 x2 y2 -> (n, 4) int64, the whole pixels that they touch."""
    return np.concatenate([np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])], 1).astype(
        np.int64
    )


def bitmap(segmentation: Segmentation, window: Sequence[int]) -> np.ndarray:
    """The part of a mask that lies in a window.

    Args:
      segmentation: polygons, whose union is the mask, run lengths of the whole
        picture (empty where the window leaves it), or None: an empty mask.
      window: x1 y1 x2 y2, whole pixels.

    Returns:
      (y2 - y1, x2 - x1) bool: pixels of which half or more are covered; see
      `_covered` for polygons so thin that there is none.
    """
    x1, y1, x2, y2 = (int(side) for side in window)
    if segmentation is None:
        return np.zeros((y2 - y1, x2 - x1), bool)
    if isinstance(segmentation, dict):
        part = run_lengths_to_mask(segmentation)[y1:y2, x1:x2]
        missing = (y2 - y1 - part.shape[0], x2 - x1 - part.shape[1])
        return np.pad(part, [(0, missing[0]), (0, missing[1])])
    fine = max(1, min(_FINEST, _FILL_SIDE // max(y2 - y1, x2 - x1)))
    canvas = np.zeros(((y2 - y1) * fine, (x2 - x1) * fine), np.uint8)
    for polygon in segmentation:
        # A coordinate is the corner between pixels; OpenCV counts from centres. Points
        # far outside are drawn in, where their edges still leave the window.
        points = (polygon.reshape(-1, 2) - (x1, y1)) * fine - 0.5
        points = np.clip(points, -(2.0**20), 2.0**20)
        cv2.fillPoly(canvas, [np.round(points * 16).astype(np.int32)], 1, shift=4)
    if fine == 1:
        return canvas.astype(bool)
    means = cv2.resize(
        canvas * np.uint8(200), (x2 - x1, y2 - y1), interpolation=cv2.INTER_AREA
    )
    return _covered(means, 100)


def _covered(shares: np.ndarray, half: float) -> np.ndarray:
    """Where shares reach a half, but for rounding.

    An object so thin that none does would vanish: of it those stay that have half as
    much as the largest. Where nothing is covered, nothing stays.
    """
    largest = shares.max(initial=0)
    least = half if largest >= half else largest / 2
    return (shares >= least * (1 - 1e-9)) & (shares > half * 1e-6)


def run_lengths_to_mask(segmentation: dict[str, Any]) -> np.ndarray:
    """COCO run lengths, {"size": [h, w], "counts": list} -> (h, w) bool."""
    height, width = segmentation["size"]
    counts = np.asarray(segmentation["counts"], np.int64)
    values = np.arange(len(counts)) % 2 == 1  # runs of zeros come first
    return np.repeat(values, counts).reshape(width, height).T


def mask_to_run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """(h, w) bool -> COCO run lengths, uncompressed; they go down the columns."""
    flat = mask.T.ravel()
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(ends, prepend=0, append=flat.size).tolist()
    if flat[0]:
        counts.insert(0, 0)
    return {"size": list(mask.shape), "counts": counts}


def decompress_counts(text: str) -> list[int]:
    """COCO's compressed run lengths as a list.

    Each number is written in groups of 5 bits, lowest first, with bit 6 for "more
    follows", as characters from "0" up; from the fourth on it is the difference to the
    number two places before.

    Raises:
      DataError: it is not such a text.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text.encode("latin-1", "replace"):
        group = character - 48
        if not 0 <= group < 64 or shift > 60:
            raise DataError("its counts are not compressed run lengths")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:  # the sign, extended
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise DataError("its counts end in the middle of a number")
    return counts


def pack(bitmaps: Sequence[np.ndarray]) -> bytes:
    """The bitmaps of a picture's objects as one string; their boxes tell the sizes."""
    return zlib.compress(b"".join(np.packbits(one).tobytes() for one in bitmaps), 6)


def unpack(packed: bytes, boxes: np.ndarray) -> list[np.ndarray]:
    """What `pack` was given, for the same boxes (n, 4)."""
    bits = np.frombuffer(zlib.decompress(packed), np.uint8)
    bitmaps, start = [], 0
    for x1, y1, x2, y2 in windows(boxes).tolist():
        pixels = (y2 - y1) * (x2 - x1)
        end = start + -(-pixels // 8)
        one = np.unpackbits(bits[start:end], count=pixels)
        bitmaps.append(one.reshape(y2 - y1, x2 - x1))
        start = end
    return bitmaps


def crop_mask(bitmap: np.ndarray, region: Sequence[float], side: int) -> np.ndarray:
    """Resample a part of a bitmap to (side, side).

    A cell of the result is 1 where the mask covers half of it or more, and of a mask
    that nowhere does, where it covers most (`_covered`). The shares are exact, for any
    region and however much smaller the result is: the sum over a picture's upper left
    part is bilinear within each pixel, so interpolating the summed picture gives the
    sum up to any point.

    Args:
      bitmap: (h, w) uint8 of 0 and 1, or bool.
      region: x1 y1 x2 y2 in the bitmap's pixels, of positive area; what lies outside
        the bitmap counts as empty.

    Returns:
      (side, side) uint8 of 0 and 1.
    """
    summed = cv2.integral(bitmap.astype(np.uint8), sdepth=cv2.CV_64F)
    x1, y1, x2, y2 = region
    height, width = bitmap.shape
    rows = _interpolate(summed, np.linspace(y1, y2, side + 1).clip(0, height))
    grid = _interpolate(rows.T, np.linspace(x1, x2, side + 1).clip(0, width)).T
    shares = np.diff(np.diff(grid, axis=0), axis=1)
    half = 0.5 * (x2 - x1) * (y2 - y1) / side**2
    return _covered(shares, half).astype(np.uint8)


def _interpolate(summed: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Rows of (h + 1, w + 1) at fractional positions: (len(at), w + 1)."""
    low = np.minimum(at.astype(np.int64), len(summed) - 2)
    share = (at - low)[:, None]
    return summed[low] * (1 - share) + summed[low + 1] * share
