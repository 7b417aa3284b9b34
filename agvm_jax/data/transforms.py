"""What happens to a picture: one description, applied to pixels and boxes alike."""

import dataclasses

import cv2
import numpy as np

from agvm_jax.data.decode import Size
from agvm_jax.data.masks import crop_mask


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the picture goes: resize, cut a window out, mirror it, pad to the frame.

    Attributes:
      size: of the original picture.
      resized: of the whole picture after resizing.
      corner: (y, x) of the window within the resized picture.
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
          image: the picture, decoded `divisor` times smaller than `size`.
          frame: (H, W) of the result.
        """
        image = self._resize(image, divisor)
        (y, x), (height, width) = self.corner, self.window
        image = image[y : y + height, x : x + width]
        if self.flip:
            image = image[:, ::-1]
        if (height, width) == frame:
            return np.ascontiguousarray(image)
        framed = np.zeros((*frame, 3), np.uint8)
        framed[:height, :width] = image
        return framed

    def _resize(self, image: np.ndarray, divisor: int) -> np.ndarray:
        """The whole picture at the size `resized`."""
        if any(side % divisor for side in self.size):
            # The last decoded pixel reaches over the picture's edge, by up to a pixel
            # of the result. cv2.resize cannot leave out a share of a pixel; a warp can.
            sy, sx = (
                old / (new * divisor)
                for new, old in zip(self.resized, self.size, strict=True)
            )
            result_to_image = np.array(
                [[sx, 0, 0.5 * sx - 0.5], [0, sy, 0.5 * sy - 0.5]], np.float64
            )
            return cv2.warpAffine(
                image,
                result_to_image,
                self.resized[::-1],
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )
        if image.shape[:2] == self.resized:
            return image
        # Averaging when shrinking: thin things must not fall between samples.
        shrinks = image.shape[0] > self.resized[0]
        return cv2.resize(
            image,
            self.resized[::-1],
            interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
        )

    def boxes(self, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Move boxes along with the picture.

        Args:
          boxes: (n, 4) x1 y1 x2 y2 in the original picture.

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
          boxes: (n, 4) in the original picture.
          moved: (n, 4) what `boxes` made of them, of positive area.
          side: m.

        Returns:
          (n, m, m) uint8 of 0 and 1, each stretched over its moved box.
        """
        (y, x), width = self.corner, self.window[1]
        if self.flip:
            moved = np.stack(
                [width - moved[:, 2], moved[:, 1], width - moved[:, 0], moved[:, 3]], 1
            )
        sy, sx = (new / old for new, old in zip(self.resized, self.size, strict=True))
        regions = (moved.astype(np.float64) + (x, y, x, y)) / (sx, sy, sx, sy)
        regions -= np.tile(np.floor(boxes[:, :2]), 2)
        cropped = np.zeros((len(bitmaps), side, side), np.uint8)
        for i, (bitmap, region) in enumerate(zip(bitmaps, regions, strict=True)):
            mask = crop_mask(bitmap, region, side)
            cropped[i] = mask[:, ::-1] if self.flip else mask
        return cropped

    def labels(self, labels: np.ndarray, frame: Size, stride: int) -> np.ndarray:
        """Labels at a fraction of the frame's resolution.

        Each cell takes the label under its centre: labels have no mean.

        Args:
          labels: (h, w) int32 of the original picture.
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


def fitted(size: Size, frame: Size, scale: float = 1.0) -> Size:
    """`size` resized with its ratio kept, to `scale` times the largest that fits."""
    factor = min(f / s for f, s in zip(frame, size, strict=True)) * scale
    # Rounding may not carry the longer side over the frame when scale is 1.
    height, width = (max(1, round(side * factor)) for side in size)
    return (height, width)


def still_placement(size: Size, frame: Size) -> Placement:
    """As large as fits, nothing random: what evaluation sees."""
    resized = fitted(size, frame)
    return Placement(size, resized, (0, 0), resized, flip=False)


def random_placement(
    rng: np.random.Generator,
    size: Size,
    frame: Size,
    flip: float,
    scale_range: tuple[float, float],
) -> Placement:
    """Draw a scale, a window where the picture is larger than the frame, and a flip.

    Always draws the same four numbers, so that one key of the config never changes
    what another draws.
    """
    u_scale, u_y, u_x, u_flip = rng.random(4)
    low, high = scale_range
    resized = fitted(size, frame, low + (high - low) * u_scale)
    window = tuple(min(a, b) for a, b in zip(resized, frame, strict=True))
    corner = tuple(
        int(u * (whole - part + 1))
        for u, whole, part in zip((u_y, u_x), resized, window, strict=True)
    )
    return Placement(size, resized, corner, window, flip=bool(u_flip < flip))
