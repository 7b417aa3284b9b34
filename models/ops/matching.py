"""Matching: which object, if any, each anchor or proposal has to find.

The table of overlaps (N objects by A anchors: 210 thousand anchors at 832 x 1344) is
never held whole. Objects are taken one by one, padding rows not at all, and each anchor
remembers its best object so far. On a CPU this is also faster than taking eight.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .boxes import coverage, iou

BACKGROUND = -1
IGNORE = -2


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
    best_iou, best_row, wanted = _for_each(
        valid,
        compare,
        (
            jnp.full((num_anchors,), -1.0, jnp.float32),
            jnp.full((num_anchors,), BACKGROUND, jnp.int32),
            jnp.zeros((num_anchors,), bool),
        ),
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

    def compare(row, inside):
        return inside | (coverage(anchors, boxes[row][None])[:, 0] > threshold)

    return _for_each(crowd, compare, jnp.zeros((anchors.shape[0],), bool))
