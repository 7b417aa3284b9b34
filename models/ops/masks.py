"""What a mask looks like through another box: the targets of a mask head.

He et al. 2017 ("Mask R-CNN"), section 3: the target of a proposal is the part of the
annotation's mask that lies under it, resampled to the head's M x M cells. A batch holds
each mask as m x m cells over its own box, so both grids are axis-parallel and the share
of a cell that the mask covers is exact as ``Y mask X^T`` with the lengths that cells of
the two grids have in common.
"""

import jax.numpy as jnp
from jaxtyping import Float32, Num, Shaped

from .arrays import Array


def shared_lengths(
    start: Float32[Array, " S"],
    end: Float32[Array, " S"],
    low: Float32[Array, " S"],
    high: Float32[Array, " S"],
    size: int,
    m: int,
) -> Float32[Array, "S {size} {m}"]:
    """Return the share of each cell of one line that each cell of another covers.

    Args:
      start, end: (S,) the first line, of `size` cells.
      low, high: (S,) the second line, of `m` cells.
      size: M.
      m: cells of the second line.

    Returns:
      (S, M, m) float32; zero for lines without a length. Over m they add up to the
      share of the cell that lies within the second line.
    """

    def edges(a, b, cells):
        # Weighed, not stepped: the last edge is exactly b, so touching lines touch.
        at = jnp.arange(cells + 1, dtype=jnp.float32) / cells
        return a[:, None] * (1.0 - at) + b[:, None] * at

    ours, theirs = edges(start, end, size), edges(low, high, m)
    first = jnp.maximum(ours[:, :-1, None], theirs[:, None, :-1])
    last = jnp.minimum(ours[:, 1:, None], theirs[:, None, 1:])
    cell = (end - start)[:, None, None] / size
    shared = jnp.maximum(last - first, 0.0)
    return jnp.where(cell > 0.0, shared / jnp.where(cell > 0.0, cell, 1.0), 0.0)


def mask_targets(
    masks: Shaped[Array, "S m m"],
    boxes: Num[Array, "S 4"],
    rois: Num[Array, "S 4"],
    size: int,
) -> Float32[Array, "S {size} {size}"]:
    """Return the share of each cell of each proposal that its mask covers.

    torchvision keeps such shares as targets, detectron2 rounds them to 0 or 1; we keep
    them. Batches: `jax.vmap`.

    Args:
      masks: (S, m, m) of 0 and 1, over `boxes`; outside of its box a mask is empty.
      boxes: (S, 4) x1 y1 x2 y2.
      rois: (S, 4), the proposals.
      size: M, cells of the target along each side.

    Returns:
      (S, M, M) float32 in [0, 1]; zeros under a proposal or a box without area.

    >>> mask = jnp.array([[[1, 0], [1, 0]]])
    >>> box = jnp.array([[0.0, 0.0, 4.0, 4.0]])
    >>> mask_targets(mask, box, jnp.array([[1.0, 0.0, 5.0, 4.0]]), 2).tolist()
    [[[0.5, 0.0], [0.5, 0.0]]]
    """
    m = masks.shape[-1]
    boxes, rois = boxes.astype(jnp.float32), rois.astype(jnp.float32)

    def along(axis):
        return shared_lengths(
            rois[:, axis],
            rois[:, axis + 2],
            boxes[:, axis],
            boxes[:, axis + 2],
            size,
            m,
        )

    columns, rows = along(0), along(1)
    shares = jnp.einsum("sph,shw,sqw->spq", rows, masks.astype(jnp.float32), columns)
    return jnp.clip(shares, 0.0, 1.0)
