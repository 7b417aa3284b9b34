"""Matching for the CPU: objects one by one, padding rows not at all.

That is also faster than eight objects at a time.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..ops.boxes import coverage, iou


def best_objects(
    anchors: jax.Array, boxes: jax.Array, valid: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """See `ops.matching`."""

    def compare(row, state):
        best_iou, best_row, wanted = state
        # Without the barrier the compiler may compute the overlaps twice, once for the
        # maximum and once for the comparison with it, round them differently, and
        # leave an object without its anchor.
        overlap = lax.optimization_barrier(iou(boxes[row][None], anchors)[0])  # (A,)
        top = overlap.max()
        wanted |= (overlap == top) & (top > 0.0)
        better = overlap > best_iou  # strictly: the first of equal objects stays
        best_iou = jnp.where(better, overlap, best_iou)
        return best_iou, jnp.where(better, row, best_row), wanted

    num_anchors = anchors.shape[0]
    return _for_each(
        valid,
        compare,
        (
            jnp.full((num_anchors,), -1.0, jnp.float32),
            jnp.full((num_anchors,), -1, jnp.int32),
            jnp.zeros((num_anchors,), bool),
        ),
    )


def inside_crowd(
    anchors: jax.Array, boxes: jax.Array, crowd: jax.Array, threshold: float
) -> jax.Array:
    """See `ops.matching`."""

    def compare(row, inside):
        return inside | (coverage(anchors, boxes[row][None])[:, 0] > threshold)

    return _for_each(crowd, compare, jnp.zeros((anchors.shape[0],), bool))


def _for_each(flags: jax.Array, update: Callable, state: Any) -> Any:
    """Return `state` after ``state = update(row, state)`` for each row flagged True.

    In the order of the rows; under `jax.vmap` there are as many turns as the element
    with the most rows needs.
    """
    rows = jnp.argsort(~flags, stable=True).astype(jnp.int32)
    count = flags.sum(dtype=jnp.int32)
    start = jnp.zeros((), jnp.int32), state
    return lax.while_loop(
        lambda loop: loop[0] < count,
        lambda loop: (loop[0] + 1, update(rows[loop[0]], loop[1])),
        start,
    )[1]
