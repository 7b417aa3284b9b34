"""Where RoIAlign reads: the levels of boxes, and their samples along each axis.

Everything here is about boxes, so it is small; the features are read in `roi_align`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int32, Integer, Num

from .arrays import Array
from .boxes import areas

# Lin et al. 2017, section 4.2: a box of 224 x 224, the size that ImageNet is trained
# at, is read from P4.
CANONICAL_SIZE = 224.0
CANONICAL_STRIDE = 16.0


def assign_levels(
    boxes: Num[Array, "*B 4"], strides: Sequence[int]
) -> Int32[Array, "*B"]:
    """Return which level each box is read from (Lin et al. 2017, equation 1).

    A box of half the side is read from the next finer level.

    Args:
      boxes: (..., 4).
      strides: pixels a cell of each level stands for, each twice the one before.

    Returns:
      (...) int32 in 0..len(strides) - 1; boxes of area 0 are at the finest level.

    >>> boxes = jnp.array([[0.0, 0.0, 224.0, 224.0], [0.0, 0.0, 100.0, 100.0]])
    >>> assign_levels(boxes, (4, 8, 16, 32)).tolist()
    [2, 0]
    """
    # In this order, because a box on the border of two levels must round as theirs.
    side = jnp.log2(jnp.sqrt(areas(boxes)) / CANONICAL_SIZE)
    level = jnp.floor(float(np.log2(CANONICAL_STRIDE)) + side + 1e-6)
    # log2(0) is -inf: clipped before the cast, which has no such number.
    level = jnp.clip(level - float(np.log2(strides[0])), 0, len(strides) - 1)
    return level.astype(jnp.int32)


class RoiSettings(NamedTuple):
    """The static arguments of `roi_align`, which see."""

    strides: tuple[int, ...]
    output_size: int
    sampling_ratio: int
    aligned: bool


class AxisSamples(NamedTuple):
    """Where the bins of some boxes are sampled, along one axis.

    Attributes:
      position: (..., P, S) float32 in 0..n - 1, cells.
      share: (..., P, S) float32, the weight of each sample in its bin; 0 for those that
        do not count.
    """

    position: Float32[Array, "*B P S"]
    share: Float32[Array, "*B P S"]


def axis_samples(
    start: Float32[Array, "*B"],
    end: Float32[Array, "*B"],
    length: Integer[Array, "*B"] | int,
    settings: RoiSettings,
    *,
    longest: int,
) -> AxisSamples:
    """Return where boxes are sampled along one axis.

    A sample more than one cell outside of the map counts as 0; one nearer to it takes
    the value of the border.

    Args:
      start: (...) lower side of each box, in cells.
      end: (...) upper side.
      length: n, cells of the map along this axis; (...) if boxes read several maps.
      settings: see `roi_align`.
      longest: the largest n there is.
    """
    _, output_size, sampling_ratio, aligned = settings
    shift = 0.5 if aligned else 0.0
    size = end - start
    if not aligned:
        size = jnp.maximum(size, 1.0)  # as the first RoIAlign had it
    if sampling_ratio > 0:
        most, samples = sampling_ratio, jnp.full_like(size, sampling_ratio)
    else:
        most = -(-longest // output_size) + 1
        most_here = -(-length // output_size) + 1
        samples = jnp.clip(jnp.ceil(size / output_size), 1.0, most_here)
    if not isinstance(length, int):
        length = length[..., None, None].astype(jnp.float32)
    size, samples = size[..., None, None], samples[..., None, None]
    sample = jnp.arange(most, dtype=jnp.float32)
    step = jnp.arange(output_size, dtype=jnp.float32)[:, None]  # (P, 1)
    bin_size = size / output_size
    position = start[..., None, None] - shift + step * bin_size
    position = position + (sample + 0.5) * (bin_size / samples)  # (..., P, S)
    counted = (position >= -1.0) & (position <= length) & (sample < samples)
    return AxisSamples(
        position=jnp.clip(position, 0.0, length - 1.0),
        share=jnp.where(counted, 1.0 / samples, 0.0),
    )


def axis_weights(
    samples: AxisSamples, first: Integer[Array, ""] | int, count: int
) -> Float32[Array, "R P {count}"]:
    """Return how much of each of some cells each bin takes, along one axis.

    Args:
      samples: of R boxes with P bins.
      first: the first of the cells.
      count: w, how many there are.

    Returns:
      (R, P, w) float32; the weights of a bin that lies inside add up to 1.
    """
    cells = (first + jnp.arange(count)).astype(jnp.float32)
    distance = jnp.abs(samples.position[..., None] - cells)
    tent = jnp.maximum(1.0 - distance, 0.0)
    return (tent * samples.share[..., None]).sum(axis=2)
