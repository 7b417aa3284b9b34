"""Which cells of a pyramid RoIAlign reads for each box: a grid, and its weights."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, Integer, Shaped

from .arrays import Array
from .roi_sampling import AxisSamples, RoiSettings, assign_levels, axis_samples


class Corners(NamedTuple):
    """The corners of the bilinear samples of boxes, two a sample along each axis.

    Attributes:
      place: (B, R, 2 P S, 2 P S) int32, places in the levels' cells one after another.
      rows: (B, R, 2 P S) float32 weights, bin by bin; 0 for boxes that do not count.
      columns: the same.
    """

    place: Int32[Array, "B R H W"]
    rows: Float32[Array, "B R H"]
    columns: Float32[Array, "B R W"]


def flatten(features: Sequence[Float[Array, "B _ _ C"]]) -> Float[Array, "B cells C"]:
    """Put the cells of all levels one after another: (B, sum of H W, C)."""
    batch, _, _, channels = features[0].shape
    return jnp.concatenate([f.reshape(batch, -1, channels) for f in features], axis=1)


def find_corners(
    grids: Sequence[tuple[int, int]],
    boxes: Float32[Array, "B R 4"],
    valid: Bool[Array, "B R"],
    settings: RoiSettings,
) -> Corners:
    """Return what is read for boxes (B, R, 4) from maps of `grids` cells a level."""
    sizes = np.array(grids)
    starts = np.cumsum([0, *sizes[:-1].prod(axis=1)])
    levels = assign_levels(boxes, settings.strides)  # (B, R)
    boxes = boxes / jnp.asarray(settings.strides, jnp.float32)[levels][..., None]
    own = jnp.asarray(sizes)[levels]  # (B, R, 2)

    def along(axis):
        samples = axis_samples(
            boxes[..., 1 - axis],
            boxes[..., 3 - axis],
            own[..., axis],
            settings,
            longest=int(sizes[:, axis].max()),
        )
        return _cells_and_weights(samples, own[..., axis], valid)

    (row, rows), (column, columns) = along(0), along(1)
    start = jnp.asarray(starts)[levels][..., None, None]
    width = own[..., 1][..., None, None]
    return Corners(start + row[..., None] * width + column[..., None, :], rows, columns)


def _cells_and_weights(
    samples: AxisSamples, length: Integer[Array, "B R"], valid: Bool[Array, "B R"]
) -> tuple[Int32[Array, "B R H"], Float32[Array, "B R H"]]:
    share = jnp.where(valid[..., None, None], samples.share, 0.0)
    low = jnp.floor(samples.position)
    part = samples.position - low
    low = low.astype(jnp.int32)
    high = jnp.minimum(low + 1, length[..., None, None] - 1)
    cells = jnp.stack([low, high], axis=-1)
    weights = jnp.stack([share * (1.0 - part), share * part], axis=-1)
    return cells.reshape(*valid.shape, -1), weights.reshape(*valid.shape, -1)


def gather(
    cells: Shaped[Array, "B N C"], place: Integer[Array, "B R h w"]
) -> Shaped[Array, "B R h w C"]:
    """Return (B, R, h, w, C), the cells (B, N, C) at places (B, R, h, w)."""
    return jax.vmap(lambda cells, place: cells[place])(cells, place)
