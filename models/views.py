"""Images seen at another size or mirrored, and what was found there taken back.

The sizes are those of images inside their padding, so an image is mirrored within its
own borders, and each axis has the scale that rounding its size gives.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Float32, Integer

from agvm_jax.structures import Batch

from .ops.arrays import Array
from .ops.boxes import clip

# Sides of the padded input of another size: multiples of the largest stride.
_DIVISOR = 32


@dataclasses.dataclass(frozen=True)
class View:
    """One way to look at a batch of images.

    Attributes:
      ratio: what the sides are multiplied by.
      flip: whether the images are mirrored, left to right.
    """

    ratio: float = 1.0
    flip: bool = False

    @property
    def plain(self) -> bool:
        """Whether nothing is changed."""
        return self.ratio == 1.0 and not self.flip

    def of(self, batch: Batch) -> Batch:
        """Return the batch with its images as they are seen; annotations stay.

        Resizing is bilinear, and averages where it shrinks, as Pillow's does.
        """
        if self.plain:
            return batch
        sizes = self.sizes(batch.image_size)
        frame = tuple(self._side(side) for side in batch.image.shape[1:3])
        pixels = batch.image.astype(jnp.float32)
        pixels = _resample(pixels, frame, 1, batch.image_size, sizes, self.flip)
        image = jnp.round(pixels).astype(jnp.uint8)
        return dataclasses.replace(batch, image=image, image_size=sizes)

    def sizes(self, image_size: Integer[Array, "B 2"]) -> Integer[Array, "B 2"]:
        """Return height and width of the images as they are seen, at least 1."""
        if self.ratio == 1.0:
            return image_size
        return jnp.maximum(jnp.round(image_size * self.ratio), 1).astype(jnp.int32)

    def forth(
        self, boxes: Float32[Array, "B N 4"], image_size: Integer[Array, "B 2"]
    ) -> Float32[Array, "B N 4"]:
        """Take boxes of the images (B, N, 4) to where they are seen."""
        if self.plain:
            return boxes
        boxes = boxes * self._scale(image_size)
        return self._mirror(boxes, self.sizes(image_size)) if self.flip else boxes

    def back(
        self, boxes: Float32[Array, "B N 4"], image_size: Integer[Array, "B 2"]
    ) -> Float32[Array, "B N 4"]:
        """Take boxes that are seen (B, N, 4) to where they are in the images."""
        if self.plain:
            return boxes
        if self.flip:
            boxes = self._mirror(boxes, self.sizes(image_size))
        boxes = boxes / self._scale(image_size)
        return jax.vmap(clip)(boxes, image_size)

    def masks_back(self, masks: Float[Array, "B N M M"]) -> Float[Array, "B N M M"]:
        """Take masks over their boxes (B, N, M, M) to those of the images."""
        return masks[..., ::-1] if self.flip else masks

    def cells_back(
        self,
        logits: Float32[Array, "B h w K"],
        image_size: Integer[Array, "B 2"],
        grid: tuple[int, int],
        stride: int,
    ) -> Float32[Array, "B {grid[0]} {grid[1]} K"]:
        """Take a map that is seen (B, h, w, K) to the cells of the images.

        Args:
          logits: values at the centres of cells of `stride` pixels.
          image_size: (B, 2), of the images.
          grid: rows and columns of the result.
          stride: pixels of the input that a cell stands for, each way.
        """
        if self.plain:
            return logits
        sizes = self.sizes(image_size)
        return _resample(logits, grid, stride, sizes, image_size, self.flip)

    def _side(self, side: int) -> int:
        """Return a side of the padded input that is seen."""
        if self.ratio == 1.0:
            return side
        return max(math.ceil(round(side * self.ratio) / _DIVISOR), 1) * _DIVISOR

    def _scale(self, image_size: Integer[Array, "B 2"]) -> Float32[Array, "B 1 4"]:
        """Return what x, y, x and y of a box are multiplied by."""
        scale = _pixels(self.sizes(image_size)) / _pixels(image_size)
        return jnp.tile(scale[:, None, ::-1], 2)

    def _mirror(
        self, boxes: Float32[Array, "B N 4"], sizes: Integer[Array, "B 2"]
    ) -> Float32[Array, "B N 4"]:
        width = sizes[:, 1, None].astype(jnp.float32)
        left, top, right, bottom = jnp.moveaxis(boxes, -1, 0)
        return jnp.stack([width - right, top, width - left, bottom], axis=-1)


def _pixels(sizes: Integer[Array, "*B"]) -> Float32[Array, "*B"]:
    """Return sizes as numbers that one can divide by; rows that only fill up have 0."""
    return jnp.maximum(sizes, 1).astype(jnp.float32)


def _resample(
    x: Float32[Array, "B h w C"],
    grid: tuple[int, int],
    stride: int,
    old_sizes: Integer[Array, "B 2"],
    new_sizes: Integer[Array, "B 2"],
    mirrored: bool,
) -> Float32[Array, "B {grid[0]} {grid[1]} C"]:
    """Resize what images of one size show to those of another: (B, h, w, C).

    Args:
      x: values at the centres of cells.
      grid: rows and columns of the result, what lies outside the images included.
      stride: pixels that a cell stands for, each way, before and after.
      old_sizes, new_sizes: (B, 2), pixels of the images.
      mirrored: whether left becomes right.
    """
    for axis, equation in enumerate(("boi,bixc->boxc", "boi,bxic->bxoc")):
        old, new = _pixels(old_sizes[:, axis]), _pixels(new_sizes[:, axis])
        scale = old / new
        places = (jnp.arange(grid[axis]) + 0.5) * stride * scale[:, None]
        places = old[:, None] - places if mirrored and axis == 1 else places
        shares = _triangle(
            places / stride, scale, x.shape[1 + axis], jnp.ceil(old / stride)
        )
        # In full precision also where matrices are multiplied in bfloat16 by default.
        x = jnp.einsum(equation, shares, x, precision=lax.Precision.HIGHEST)
    return x


def _triangle(
    places: Float32[Array, "B out"],
    scale: Float32[Array, " B"],
    count: int,
    limit: Float32[Array, " B"],
) -> Float32[Array, "B out {count}"]:
    """Return the share of each of `count` cells in values at other places.

    Args:
      places: (B, out), in cells; a cell's centre is at its number and a half.
      scale: (B,), cells from one place to the next: where it is above 1 as many are
        averaged.
      count: cells there are.
      limit: (B,), those that count; beyond the outermost their values are constant.

    Returns:
      (B, out, count); a row sums to 1, or is 0 far outside.
    """
    cells = jnp.arange(count, dtype=jnp.float32) + 0.5
    wide = jnp.maximum(scale, 1.0)[:, None, None]
    shares = jnp.maximum(1.0 - jnp.abs(places[..., None] - cells) / wide, 0.0)
    shares = shares * (cells < limit[:, None])[:, None]
    return shares / jnp.maximum(shares.sum(axis=-1, keepdims=True), 1e-6)
