"""Bilinear interpolation of maps whose cells stand for squares of pixels (NHWC).

As torch's ``interpolate(mode="bilinear", align_corners=False)``: values stand at the
centres of their cells, and beyond the outermost centres the map is constant.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32

from .arrays import Array


def between_cells(
    x: Float[Array, "B h w C"],
    rows: float | Float[Array, ""],
    columns: float | Float[Array, ""],
) -> Float[Array, "B h w C"]:
    """Return the map at the centres of its cells, moved by a share of a cell.

    Args:
      x: (B, h, w, C).
      rows: how far down, from -1/2 to 1/2 of a cell.
      columns: how far to the right, the same.

    Returns:
      (B, h, w, C).

    >>> x = jnp.array([0.0, 4.0, 8.0]).reshape(1, 1, 3, 1)
    >>> between_cells(x, 0.0, 0.25).ravel().tolist()
    [1.0, 5.0, 8.0]
    """
    return _along(_along(x, rows, 1), columns, 2)


def offsets(factor: int) -> Float32[np.ndarray, " {factor}"]:
    """Return where the centres of a cell's `factor` parts are, (factor,) float32.

    In cells, from the centre of the cell.

    >>> offsets(2).tolist()
    [-0.25, 0.25]
    """
    return ((np.arange(factor) + 0.5) / factor - 0.5).astype(np.float32)


def double(
    x: Float[Array, "B h w C"], size: tuple[int, int]
) -> Float[Array, "B {size[0]} {size[1]} C"]:
    """Double (B, h, w, C) bilinearly, cropped to `size`: each side 2n or 2n - 1.

    Raises:
      ValueError: `size` is neither of these.
    """
    if tuple((side + 1) // 2 for side in size) != x.shape[1:3]:
        raise ValueError(f"cannot double a map of {x.shape[1]}x{x.shape[2]} to {size}")
    for axis in (1, 2):
        parts = [_along(x, float(offset), axis) for offset in offsets(2)]
        shape = list(x.shape)
        shape[axis] *= 2
        x = jnp.stack(parts, axis=axis + 1).reshape(shape)
    return x[:, : size[0], : size[1]]


def _along(
    x: Float[Array, "B h w C"], offset: float | Float[Array, ""], axis: int
) -> Float[Array, "B h w C"]:
    """Move (B, h, w, C) along one axis by an offset of at most half a cell."""
    offset = jnp.asarray(offset, x.dtype)
    first, last = (
        jax.lax.slice_in_dim(x, start, start + 1, axis=axis)
        for start in (0, x.shape[axis] - 1)
    )
    before = jax.lax.slice_in_dim(x, 0, x.shape[axis] - 1, axis=axis)
    after = jax.lax.slice_in_dim(x, 1, x.shape[axis], axis=axis)
    before = jnp.concatenate([first, before], axis=axis)
    after = jnp.concatenate([after, last], axis=axis)
    zero = jnp.zeros_like(offset)
    back, ahead = jnp.maximum(-offset, zero), jnp.maximum(offset, zero)
    return back * before + (1 - back - ahead) * x + ahead * after
