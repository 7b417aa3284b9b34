"""Soft-NMS with static shapes: overlaps lower scores and drop nothing by themselves.

Bodla et al. 2017 ("Soft-NMS: improving object detection with one line of code"),
figure 2 and equations 2 (linear) and 3 (gaussian): the best candidate left is kept at
the score that it has by then, and lowers those of its class that it overlaps. The order
of the kept decides everything, so it is a loop: one turn for each output, whatever the
data, and a row of overlaps a turn, no table.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Float, Float32, Int32, Integer

from .arrays import Array
from .boxes import iou

METHODS = ("linear", "gaussian")


def soft_nms(
    boxes: Float[Array, "N 4"],
    scores: Float[Array, " N"],
    classes: Integer[Array, " N"],
    valid: Bool[Array, " N"],
    *,
    method: str,
    iou_threshold: float,
    sigma: float,
    score_threshold: float,
    max_outputs: int,
) -> tuple[
    Int32[Array, " {max_outputs}"],
    Bool[Array, " {max_outputs}"],
    Float32[Array, " {max_outputs}"],
]:
    """Return the rows that Soft-NMS keeps and their scores, best first.

    Of equal scores the earlier row comes first. Batches: `jax.vmap`.

    Args:
      boxes: (N, 4).
      scores: (N,) in [0, 1]; rows whose score is NaN are never kept.
      classes: (N,) int; only boxes of one class lower each other's scores.
      valid: (N,) bool; a row that is False is neither kept nor lowers any.
      method: "linear": times 1 - IoU, above the threshold; "gaussian": times
        exp(-IoU^2 / sigma), at any overlap.
      iou_threshold: in [0, 1], for "linear"; an overlap must be larger to count.
      sigma: for "gaussian", above 0; the smaller, the nearer to dropping.
      score_threshold: what has fallen to it or below is not kept.
      max_outputs: M, at most this many are kept.

    Returns:
      indices: (M,) int32 rows of `boxes`, 0 where nothing was left to keep.
      kept: (M,) bool.
      scores: (M,) float32, as they were lowered; 0 where nothing was kept.

    Raises:
      ValueError: there is no such method, or a setting is out of range.

    >>> boxes = jnp.array([[0, 0, 4, 4], [0, 0, 4, 3], [8, 8, 9, 9]], jnp.float32)
    >>> scores, classes = jnp.array([0.8, 1.0, 0.3]), jnp.zeros(3, jnp.int32)
    >>> rows, kept, lowered = soft_nms(
    ...     boxes, scores, classes, scores > 0, method="linear", iou_threshold=0.5,
    ...     sigma=0.5, score_threshold=0.05, max_outputs=3
    ... )
    >>> rows.tolist(), lowered.round(3).tolist()
    ([1, 2, 0], [1.0, 0.30000001192092896, 0.20000000298023224])
    """
    if method not in METHODS:
        raise ValueError(f"Soft-NMS {method!r} is not known; choose one of {METHODS}")
    if not 0.0 <= iou_threshold <= 1.0 or not sigma > 0.0:
        raise ValueError(
            f"iou_threshold {iou_threshold} must be in [0, 1], sigma {sigma} above 0"
        )
    if max_outputs < 1:
        raise ValueError(f"max_outputs is {max_outputs}: it must be at least 1")
    boxes = boxes.astype(jnp.float32)
    scores = scores.astype(jnp.float32)
    # -inf: kept already, or never to be. False for NaN.
    left = jnp.where(valid & (scores > -jnp.inf), scores, -jnp.inf)

    def keep_best(
        left: jax.Array, _: None
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        row = jnp.argmax(left).astype(jnp.int32)
        best = left[row]
        overlap = iou(boxes[row][None], boxes)[0]
        if method == "linear":
            factor = jnp.where(overlap > iou_threshold, 1.0 - overlap, 1.0)
        else:
            factor = jnp.exp(-jnp.square(overlap) / sigma)
        lowered = (classes == classes[row]) & (left > -jnp.inf)  # 0 * -inf is NaN
        left = jnp.where(lowered, left * factor, left).at[row].set(-jnp.inf)
        return left, (row, best)

    _, (rows, best) = lax.scan(keep_best, left, length=max_outputs)
    kept = best > score_threshold
    return jnp.where(kept, rows, 0), kept, jnp.where(kept, best, 0.0)
