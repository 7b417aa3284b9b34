"""Non-maximum suppression with static shapes, equal to the greedy algorithm.

Greedy NMS walks through the candidates from the best score down and keeps one unless
it overlaps a kept one of its class by more than the threshold. That choice is the only
fixed point of ``keep[i] = valid[i] and no kept, better j overlaps i``; iterating from
"all valid" settles one more link of each chain of overlaps a turn, so it ends after as
many turns as the longest chain has links, and never takes more than there are boxes.

One table says who suppresses whom, a byte a pair; runs of rows that share no class have
tables of their own, side by side. For 16 images that is 0.3 GB for the proposals of
five levels of at most 2,000 boxes, and 0.4 GB for a RetinaNet's 5,000 candidates.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Bool, Float, Int32, Integer

from .arrays import Array
from .boxes import iou
from .forms import pick


def nms(
    boxes: Float[Array, "N 4"],
    scores: Float[Array, " N"],
    classes: Integer[Array, " N"],
    valid: Bool[Array, " N"],
    *,
    iou_threshold: float,
    max_outputs: int,
    tile: int = 256,
    runs: Sequence[int] | None = None,
) -> tuple[Int32[Array, " {max_outputs}"], Bool[Array, " {max_outputs}"]]:
    """Return the rows that greedy NMS keeps, class by class, best first.

    Of equal scores the earlier row comes first. Batches: `jax.vmap`. Differentiable in
    nothing; gather boxes and scores by the indices.

    Args:
      boxes: (N, 4).
      scores: (N,); rows whose score is NaN or -inf are never kept.
      classes: (N,) int; only boxes of one class suppress each other. Give the pyramid
        level for proposals, zeros to suppress across classes.
      valid: (N,) bool; a row that is False is neither kept nor suppresses.
      iou_threshold: in [0, 1]; an overlap must be larger to suppress.
      max_outputs: M, at most this many are kept.
      tile: candidates judged at once by the form for CPUs; a question of speed only.
      runs: a promise that saves memory: how many rows in a row share no class with any
        other rows, as levels do not; they add up to N. None: all of them are one run.

    Returns:
      indices: (M,) int32 rows of `boxes`, 0 where nothing was left to keep.
      kept: (M,) bool.

    Raises:
      ValueError: when a threshold or size is out of range, or the runs do not add up.

    >>> boxes = jnp.array([[0, 0, 4, 4], [0, 0, 4, 3], [8, 8, 9, 9]], jnp.float32)
    >>> scores, classes = jnp.array([0.8, 0.9, 0.3]), jnp.zeros(3, jnp.int32)
    >>> indices, kept = nms(
    ...     boxes, scores, classes, scores > 0.0, iou_threshold=0.5, max_outputs=3
    ... )
    >>> indices.tolist(), kept.tolist()
    ([1, 2, 0], [True, True, False])
    """
    if not 0.0 <= iou_threshold <= 1.0:
        raise ValueError(f"iou_threshold is {iou_threshold}: it must be in [0, 1]")
    if max_outputs < 1 or tile < 1:
        raise ValueError(
            f"max_outputs {max_outputs} and tile {tile} must be at least 1"
        )
    runs = (boxes.shape[0],) if runs is None else tuple(runs)
    if sum(runs) != boxes.shape[0]:
        raise ValueError(f"runs {runs} do not add up to the {boxes.shape[0]} boxes")
    return pick("nms", _nms)(
        boxes,
        scores,
        classes,
        valid,
        iou_threshold=iou_threshold,
        max_outputs=max_outputs,
        tile=tile,
        runs=runs,
    )


def _nms(boxes, scores, classes, valid, *, iou_threshold, max_outputs, tile, runs):
    del tile
    scores = scores.astype(jnp.float32)
    valid = valid & (scores > -jnp.inf)  # False for NaN
    most = max(runs)
    # (runs, most), one run a line: rows of `boxes`, and where there is one.
    places = np.arange(most)
    inside = places < np.array(runs)[:, None]
    starts = np.cumsum([0, *runs[:-1]])[:, None]
    rows = np.where(inside, starts + places, 0)
    suppresses = jax.vmap(
        lambda boxes, scores, classes, valid: _suppresses(
            boxes, scores, classes, valid, iou_threshold
        )
    )(boxes[rows].astype(jnp.float32), scores[rows], classes[rows], valid[rows])
    able = valid[rows] & inside  # (runs, most)

    def refine(state):
        keep, _, turns = state
        return able & ~(suppresses & keep[:, :, None]).any(axis=1), keep, turns + 1

    keep, _, _ = lax.while_loop(
        lambda state: (state[0] != state[1]).any() & (state[2] <= most),
        refine,
        refine((able, able, 0)),
    )
    keep = jnp.concatenate([keep[i, :count] for i, count in enumerate(runs)])
    # Of equal scores the earlier stands first.
    best, indices = lax.top_k(
        jnp.where(keep, scores, -jnp.inf), min(max_outputs, keep.shape[0])
    )
    missing = (0, max_outputs - best.shape[0])
    kept = jnp.pad(best > -jnp.inf, missing)
    return jnp.where(kept, jnp.pad(indices, missing), 0), kept


def _suppresses(boxes, scores, classes, valid, iou_threshold):
    """Return whether row j suppresses row i if it is kept: (N, N) bool."""
    row = jnp.arange(scores.shape[0])
    first, second = scores[:, None], scores[None, :]
    better = (first > second) | ((first == second) & (row[:, None] < row))
    same = classes[:, None] == classes
    return (iou(boxes, boxes) > iou_threshold) & same & better & valid[:, None]
