"""Matching: which object, if any, each anchor or proposal has to find.

The table of overlaps (N objects by A anchors: 268 thousand anchors at 832 x 1344) is
never held whole. Objects are taken a few rows at a time, padding rows not at all, and
each anchor remembers its best object so far.
"""

import jax
import jax.numpy as jnp
from jax import lax

from .boxes import coverage, iou

BACKGROUND = -1
IGNORE = -2

_ROWS = 8  # objects compared with all anchors at once


def _valid_first(
    boxes: jax.Array, valid: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return boxes (R, 4) and their rows (R,), valid ones first, and the valid count.

    R is the number of rows made divisible by `_ROWS`. The order among valid rows stays.
    """
    order = jnp.argsort(~valid, stable=True).astype(jnp.int32)
    order = jnp.pad(order, (0, -len(order) % _ROWS))
    return boxes[order], order, valid.sum(dtype=jnp.int32)


def match(
    anchors: jax.Array,
    boxes: jax.Array,
    valid: jax.Array,
    *,
    foreground_iou: float,
    background_iou: float,
    low_quality: bool,
) -> jax.Array:
    """Return for each anchor the row of its object, or BACKGROUND or IGNORE.

    With thresholds 0.5 and 0.4, an anchor whose best IoU is

    * 0.5 or more: is matched to that object (to the first one, if several tie);
    * 0.4 or more, but less than 0.5: is IGNORE, it counts for nothing;
    * less than 0.4: is BACKGROUND.

    `low_quality` lets no object go without: each anchor that ties for the best IoU with
    some object is matched too, to *its own* best object, however low the overlap
    (Faster R-CNN, section 3.1.2, as detectron2 and torchvision read it). An object that
    no anchor overlaps at all stays without; torchvision then matches every anchor.

    Batches: `jax.vmap`. Differentiable in nothing.

    Args:
      anchors: (A, 4).
      boxes: (N, 4).
      valid: (N,) bool; a row that is False is never matched.
      foreground_iou: in (0, 1].
      background_iou: in [0, foreground_iou].
      low_quality: see above. True for RetinaNet and region proposals.

    Returns:
      (A,) int32 in {IGNORE, BACKGROUND, 0, ..., N - 1}.

    Raises:
      ValueError: when the thresholds are out of range or order.

    >>> anchors = jnp.array([[0.0, 0.0, 4.0, 4.0], [8.0, 0.0, 12.0, 4.0]])
    >>> boxes = jnp.array([[0.0, 0.0, 4.0, 3.0], [0.0, 0.0, 4.0, 4.0]])
    >>> thresholds = dict(foreground_iou=0.5, background_iou=0.4, low_quality=True)
    >>> match(anchors, boxes, jnp.array([True, False]), **thresholds).tolist()
    [0, -1]
    """
    if not 0.0 <= background_iou <= foreground_iou <= 1.0 or foreground_iou == 0.0:
        raise ValueError(
            f"background_iou {background_iou} and foreground_iou {foreground_iou}: "
            "0 <= background_iou <= foreground_iou <= 1 and foreground_iou > 0 needed"
        )
    boxes, rows, count = _valid_first(boxes, valid)

    def compare(state):
        start, best_iou, best_row, wanted = state
        some_boxes = lax.dynamic_slice_in_dim(boxes, start, _ROWS)
        some_rows = lax.dynamic_slice_in_dim(rows, start, _ROWS)
        real = (start + jnp.arange(_ROWS) < count)[:, None]
        # Without the barrier the compiler may compute the overlaps twice, once for the
        # maximum and once for the comparison with it, round them differently, and
        # leave an object without its anchor.
        overlaps = lax.optimization_barrier(iou(some_boxes, anchors))  # (_ROWS, A)
        overlaps = jnp.where(real, overlaps, -1.0)

        top = overlaps.max(axis=1, keepdims=True)
        wanted |= ((overlaps == top) & (top > 0.0)).any(axis=0)

        iou_here = overlaps.max(axis=0)
        row_here = some_rows[jnp.argmax(overlaps, axis=0)]
        better = iou_here > best_iou  # strictly: the first of equal objects stays
        best_iou = jnp.where(better, iou_here, best_iou)
        best_row = jnp.where(better, row_here, best_row)
        return start + _ROWS, best_iou, best_row, wanted

    num_anchors = anchors.shape[0]
    start = (
        jnp.zeros((), jnp.int32),
        jnp.full((num_anchors,), -1.0, jnp.float32),
        jnp.full((num_anchors,), BACKGROUND, jnp.int32),
        jnp.zeros((num_anchors,), bool),
    )
    _, best_iou, best_row, wanted = lax.while_loop(
        lambda state: state[0] < count, compare, start
    )
    found = best_iou >= foreground_iou
    if low_quality:
        found |= wanted
    matches = jnp.where(best_iou >= background_iou, IGNORE, BACKGROUND)
    return jnp.where(found, best_row, matches).astype(jnp.int32)


def inside_crowd(
    anchors: jax.Array, boxes: jax.Array, crowd: jax.Array, threshold: float = 0.5
) -> jax.Array:
    """Return whether more than `threshold` of an anchor lies in one crowd region.

    Such an anchor may well look at an object that nobody outlined, so it must not be
    taught to be background.

    Args:
      anchors: (A, 4).
      boxes: (N, 4).
      crowd: (N,) bool, the rows of `boxes` that are crowd regions.
      threshold: share of the anchor's area.

    Returns:
      (A,) bool.

    >>> anchors = jnp.array([[0.0, 0.0, 4.0, 4.0], [8.0, 0.0, 12.0, 4.0]])
    >>> region = jnp.array([[0.0, 0.0, 9.0, 9.0]])
    >>> inside_crowd(anchors, region, jnp.array([True])).tolist()
    [True, False]
    """
    boxes, _, count = _valid_first(boxes, crowd)

    def compare(state):
        start, inside = state
        regions = lax.dynamic_slice_in_dim(boxes, start, _ROWS)
        real = start + jnp.arange(_ROWS) < count
        covered = coverage(anchors, regions) > threshold  # (A, _ROWS)
        return start + _ROWS, inside | (covered & real).any(axis=1)

    start = jnp.zeros((), jnp.int32), jnp.zeros((anchors.shape[0],), bool)
    return lax.while_loop(lambda state: state[0] < count, compare, start)[1]
