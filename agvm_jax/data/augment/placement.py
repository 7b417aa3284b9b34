"""Placement: where an image goes, applied alike to pixels, boxes, masks and labels."""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np

from agvm_jax.data.annotations.objects import covered, windows
from agvm_jax.data.augment.decode import Size


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the image goes: resize, cut a window out, mirror it, pad to the frame.

    Attributes:
      size: of the original image.
      resized: of the whole image after resizing.
      corner: (y, x) of the window within the resized image.
      window: size of the window; it stands in the frame's top left corner.
      flip: whether the window is mirrored left to right.
    """

    size: Size
    resized: Size
    corner: tuple[int, int]
    window: Size
    flip: bool

    def image(self, image: np.ndarray, frame: Size, divisor: int = 1) -> np.ndarray:
        """(h, w, 3) -> (*frame, 3) uint8, zero outside the window.

        Args:
          image: the image, decoded `divisor` times smaller than `size`.
          frame: (H, W) of the result.
        """
        height, width = self.window
        framed = np.empty((*frame, 3), np.uint8)
        framed[height:] = 0
        framed[:height, width:] = 0
        place = framed[:height, :width]
        if self.flip:
            # OpenCV's mirror is several times faster than copying a reversed view.
            cv2.flip(self._resize(image, divisor), 1, dst=place)
        else:
            self._resize(image, divisor, place)
        return framed

    def _resize(
        self, image: np.ndarray, divisor: int, out: np.ndarray | None = None
    ) -> np.ndarray:
        """The window of the image at the size `resized`, written to `out`."""
        (y, x), (height, width) = self.corner, self.window
        # Pixels of the result to a decoded one. The last decoded pixel of a side that
        # the divisor does not divide reaches over the image's edge, so these are not
        # ratios of whole pixels.
        fy, fx = (
            new * divisor / old
            for new, old in zip(self.resized, self.size, strict=True)
        )
        whole = self.window == self.resized
        exact = image.shape[:2] == self.resized
        if not exact and min(fy, fx) >= 1 and not whole:
            # Of an enlarged image the window alone is made.
            result_to_image = np.array(
                [
                    [1 / fx, 0, (x + 0.5) / fx - 0.5],
                    [0, 1 / fy, (y + 0.5) / fy - 0.5],
                ],
                np.float64,
            )
            return cv2.warpAffine(
                image,
                result_to_image,
                (width, height),
                dst=out,
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )
        # Averaging when shrinking: thin things must not fall between samples.
        method = cv2.INTER_AREA if min(fy, fx) < 1 else cv2.INTER_LINEAR
        if any(side % divisor for side in self.size):
            # Told the ratios and not the size, OpenCV rounds the size up to hold the
            # shares of pixels at the end, which are cut off.
            image = cv2.resize(image, None, fx=fx, fy=fy, interpolation=method)
        elif not exact:
            image = cv2.resize(
                image,
                self.resized[::-1],
                dst=out if whole else None,
                interpolation=method,
            )
            if whole:
                return image
        image = image[y : y + height, x : x + width]
        if out is not None:
            out[:] = image
        return image

    def boxes(self, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Move boxes along with the image.

        Args:
          boxes: (n, 4) x1 y1 x2 y2 in the original image.

        Returns:
          (n, 4) float32 in the frame, clipped to the window, and (n,) bool: whether
          anything of the box is left.
        """
        (y, x), (height, width) = self.corner, self.window
        # Each axis has its own scale, since `resized` was rounded: dividing by it and
        # multiplying by `size` must give the original back.
        sy, sx = (new / old for new, old in zip(self.resized, self.size, strict=True))
        boxes = boxes.astype(np.float64) * (sx, sy, sx, sy) - (x, y, x, y)
        if self.flip:
            boxes = np.stack(
                [width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1
            )
        boxes = np.clip(boxes, 0, (width, height, width, height)).astype(np.float32)
        return boxes, (boxes[:, 2:] > boxes[:, :2]).all(axis=1)

    def masks(
        self, bitmaps: list[np.ndarray], boxes: np.ndarray, moved: np.ndarray, side: int
    ) -> np.ndarray:
        """Crop masks to where their boxes went.

        Args:
          bitmaps: of n objects, each over the whole pixels of its box.
          boxes: (n, 4) in the original image.
          moved: (n, 4) what `boxes` made of them, of positive area.
          side: m.

        Returns:
          (n, m, m) uint8 of 0 and 1, each stretched over its moved box.
        """
        cropped = crop_masks(bitmaps, self._sources(boxes, moved), side)
        return cropped[:, :, ::-1] if self.flip else cropped

    def bitmaps(
        self, bitmaps: list[np.ndarray], boxes: np.ndarray, moved: np.ndarray
    ) -> list[np.ndarray]:
        """Masks at the frame's own resolution; arguments as in `masks`.

        Returns:
          n of (h, w) uint8 of 0 and 1, each over the whole pixels of its moved box.
        """
        pixels = windows(moved)
        placed = []
        regions = self._sources(boxes, pixels)
        for bitmap, region, (x1, y1, x2, y2) in zip(
            bitmaps, regions, pixels.tolist(), strict=True
        ):
            share = _shares(bitmap, region, (y2 - y1, x2 - x1))
            half = 0.5 * np.prod(region[2:] - region[:2]) / share.size
            part = covered(share, half).astype(np.uint8)
            placed.append(part[:, ::-1] if self.flip else part)
        return placed

    def _sources(self, boxes: np.ndarray, moved: np.ndarray) -> np.ndarray:
        """Where parts of the frame come from, in the pixels of their object's bitmap.

        Args:
          boxes: (n, 4) of the objects in the original image.
          moved: (n, 4) parts of the frame.

        Returns:
          (n, 4) x1 y1 x2 y2; not mirrored yet where the window is.
        """
        (y, x), width = self.corner, self.window[1]
        if self.flip:
            moved = np.stack(
                [width - moved[:, 2], moved[:, 1], width - moved[:, 0], moved[:, 3]], 1
            )
        sy, sx = (new / old for new, old in zip(self.resized, self.size, strict=True))
        regions = (moved.astype(np.float64) + (x, y, x, y)) / (sx, sy, sx, sy)
        return regions - np.tile(np.floor(boxes[:, :2]), 2)

    def labels(self, labels: np.ndarray, frame: Size, stride: int) -> np.ndarray:
        """Labels at a fraction of the frame's resolution.

        Each cell takes the label under its centre: labels have no mean.

        Args:
          labels: (h, w) int32 of the original image.
          frame: (H, W), multiples of `stride`.

        Returns:
          (H / stride, W / stride) int32, -1 outside the window.
        """
        picked = []
        for axis in range(2):
            cells = frame[axis] // stride
            at = (np.arange(cells) + 0.5) * stride
            inside = at < self.window[axis]
            if axis == 1 and self.flip:
                at = self.window[1] - at
            scale = self.size[axis] / self.resized[axis]
            at = np.floor((at + self.corner[axis]) * scale).astype(np.int64)
            picked.append((at.clip(0, self.size[axis] - 1), inside))
        (rows, rows_inside), (columns, columns_inside) = picked
        inside = rows_inside[:, None] & columns_inside
        return np.where(inside, labels[np.ix_(rows, columns)], -1).astype(np.int32)


def crop_masks(
    bitmaps: Sequence[np.ndarray], regions: np.ndarray, side: int
) -> np.ndarray:
    """Resample a part of each of n bitmaps to (side, side).

    A cell of the result is 1 where the mask covers half of it or more, and of a mask
    that nowhere does, where it covers most (`covered`). The shares are exact, for any
    region and however much smaller the result is: the sum over an image's upper left
    part is bilinear within each pixel, so interpolating the summed image gives the
    sum up to any point.

    Args:
      bitmaps: n of (h, w) uint8 of 0 and 1, or bool.
      regions: (n, 4) x1 y1 x2 y2 in a bitmap's pixels, of positive area; what lies
        outside the bitmap counts as empty.

    Returns:
      (n, side, side) uint8 of 0 and 1.
    """
    shares = np.zeros((len(bitmaps), side, side))
    for k, (bitmap, region) in enumerate(zip(bitmaps, regions, strict=True)):
        shares[k] = _shares(bitmap, region, (side, side))
    x1, y1, x2, y2 = np.asarray(regions, np.float64).reshape(-1, 4).T
    half = 0.5 * (x2 - x1) * (y2 - y1) / side**2
    return covered(shares, half).astype(np.uint8)


def _shares(bitmap: np.ndarray, region: np.ndarray, cells: Size) -> np.ndarray:
    """How much of a bitmap lies in each cell of a part of it, in its pixels.

    Args:
      bitmap: (h, w) of 0 and 1.
      region: (4,) x1 y1 x2 y2, divided evenly into `cells` (H, W).
    """
    x1, y1, x2, y2 = region
    summed = cv2.integral(bitmap.astype(np.uint8), sdepth=cv2.CV_64F)
    (height, width), (down, across) = bitmap.shape, cells
    rows = _interpolate(summed, np.linspace(y1, y2, down + 1).clip(0, height))
    grid = _interpolate(rows.T, np.linspace(x1, x2, across + 1).clip(0, width)).T
    return np.diff(np.diff(grid, axis=0), axis=1)


def _interpolate(summed: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Rows of (h + 1, w + 1) at fractional positions: (len(at), w + 1)."""
    low = np.minimum(at.astype(np.int64), len(summed) - 2)
    share = (at - low)[:, None]
    return summed[low] * (1 - share) + summed[low + 1] * share
