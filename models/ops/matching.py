"""Matching: which object, if any, each anchor or proposal has to find.

The table of overlaps (N objects by A anchors: 210 thousand anchors at 832 x 1344) is
never held whole. Objects are taken a block at a time, and each anchor remembers its
best object so far: 13 MB an image for the block's overlaps.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Float, Float32, Int32

from .arrays import Array
from .boxes import coverage, iou
from .forms import pick

BACKGROUND = -1
IGNORE = -2
_BLOCK = 16  # objects compared at once


def match(
    anchors: Float[Array, "A 4"],
    boxes: Float[Array, "N 4"],
    valid: Bool[Array, " N"],
    *,
    foreground_iou: float,
    background_iou: float,
    low_quality: bool,
) -> Int32[Array, " A"]:
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

    best_iou, best_row, wanted = pick("best_objects", _best_objects)(
        anchors, boxes, valid
    )
    found = best_iou >= foreground_iou
    if low_quality:
        found |= wanted
    matches = jnp.where(best_iou >= background_iou, IGNORE, BACKGROUND)
    return jnp.where(found, best_row, matches).astype(jnp.int32)


def inside_crowd(
    anchors: Float[Array, "A 4"],
    boxes: Float[Array, "N 4"],
    crowd: Bool[Array, " N"],
    threshold: float = 0.5,
) -> Bool[Array, " A"]:
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
    return pick("inside_crowd", _inside_crowd)(anchors, boxes, crowd, threshold)


def match_objects(
    anchors: Float[Array, "A 4"],
    boxes: Float[Array, "N 4"],
    valid: Bool[Array, " N"],
    crowd: Bool[Array, " N"],
    **rule: float | bool,
) -> Int32[Array, " A"]:
    """Return what `match` does for objects among which there are crowd regions.

    Those match nothing, and what would be BACKGROUND and lies in one by more than half
    is IGNORE.

    Args:
      anchors: (A, 4).
      boxes: (N, 4).
      valid: (N,) bool.
      crowd: (N,) bool, the rows of `boxes` that are crowd regions.
      rule: the keywords of `match`.
    """
    matches = match(anchors, boxes, valid & ~crowd, **rule)
    unsure = inside_crowd(anchors, boxes, valid & crowd) & (matches == BACKGROUND)
    return jnp.where(unsure, IGNORE, matches)


def _best_objects(
    anchors: Float[Array, "A 4"], boxes: Float[Array, "N 4"], valid: Bool[Array, " N"]
) -> tuple[Float32[Array, " A"], Int32[Array, " A"], Bool[Array, " A"]]:
    """Return each anchor's best IoU, its row, and whether some object wants it most.

    Args:
      anchors: (A, 4).
      boxes: (N, 4).
      valid: (N,) bool.

    Returns:
      (A,) float32, -1 where no row is valid; (A,) int32; (A,) bool: it ties for the
      best IoU with some object, above 0.
    """
    num_anchors, num_boxes = anchors.shape[0], boxes.shape[0]
    missing = -num_boxes % _BLOCK
    boxes = jnp.pad(boxes, ((0, missing), (0, 0))).reshape(-1, _BLOCK, 4)
    valid = jnp.pad(valid, (0, missing)).reshape(-1, _BLOCK)
    first_rows = jnp.arange(0, num_boxes + missing, _BLOCK, dtype=jnp.int32)

    def compare(state, block):
        best_iou, best_row, wanted = state
        boxes, valid, first_row = block
        # Without the barrier the compiler may compute the overlaps twice, once for the
        # maximum and once for the comparison with it, round them differently, and
        # leave an object without its anchor.
        overlap = jnp.where(valid[:, None], iou(boxes, anchors), -1.0)
        overlap = lax.optimization_barrier(overlap)  # (block, A)
        top = overlap.max(axis=1, keepdims=True)
        wanted |= ((overlap == top) & (top > 0.0)).any(axis=0)
        best = overlap.max(axis=0)
        row = first_row + overlap.argmax(axis=0).astype(jnp.int32)
        better = best > best_iou  # strictly: the first of equal objects stays
        best_iou = jnp.where(better, best, best_iou)
        return (best_iou, jnp.where(better, row, best_row), wanted), None

    nothing = (
        jnp.full((num_anchors,), -1.0, jnp.float32),
        jnp.full((num_anchors,), BACKGROUND, jnp.int32),
        jnp.zeros((num_anchors,), bool),
    )
    return lax.scan(compare, nothing, (boxes, valid, first_rows))[0]


def _inside_crowd(anchors, boxes, crowd, threshold):
    return ((coverage(anchors, boxes) > threshold) & crowd).any(axis=1)
