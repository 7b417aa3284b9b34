"""Boxes that RoIAlign reads together, and the window of the map that holds them."""

import jax
import jax.numpy as jnp

from ..ops.roi_sampling import AxisSamples


def reading_order(boxes: jax.Array, levels: jax.Array, chunk: int) -> jax.Array:
    """Return an order by level in which `chunk` boxes in a row are neighbours.

    Each level is cut into as many upright stripes as a stripe has chunks, and a stripe
    is gone through from top to bottom: the packing of Leutenegger et al. 1997 ("STR").

    Args:
      boxes: (R, 4).
      levels: (R,) int32.
      chunk: boxes that are to be near each other.

    Returns:
      (R,) int32, rows in that order.
    """
    centre = boxes[:, :2] + boxes[:, 2:]
    of_level = levels[:, None] == levels  # (R, R)
    left = centre[:, 0] < centre[:, 0, None]
    rows = jnp.arange(boxes.shape[0])
    left |= (centre[:, 0] == centre[:, 0, None]) & (rows < rows[:, None])
    rank = (of_level & left).sum(axis=1)
    chunks = of_level.sum(axis=1) / chunk
    stripe = rank // (chunk * jnp.ceil(jnp.sqrt(chunks)).astype(rank.dtype))
    return jnp.lexsort((centre[:, 1], stripe, levels))


def axis_window(
    samples: AxisSamples, length: int, count: int
) -> tuple[jax.Array, jax.Array]:
    """Return the first of `count` cells that are to hold all samples, and if they do.

    Args:
      samples: (..., R, P, S) of chunks of R boxes; share 0 where they do not count.
      length: cells of the map along this axis, at least `count`.
      count: cells of the window.

    Returns:
      (...) int32 and (...) bool, one for each chunk.
    """
    matters = samples.share > 0
    cell = jnp.floor(samples.position).astype(jnp.int32)
    low = jnp.where(matters, cell, length).min(axis=(-3, -2, -1))
    # A sample between two cells reads both.
    high = jnp.where(matters, jnp.minimum(cell + 1, length - 1), -1)
    high = high.max(axis=(-3, -2, -1))
    first = jnp.clip(low, 0, length - count)
    return first, high < first + count
