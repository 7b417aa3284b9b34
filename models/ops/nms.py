"""Non-maximum suppression with static shapes, equal to the greedy algorithm.

Greedy NMS walks through the candidates from the best score down and keeps one unless
it overlaps a kept one of its class by more than the threshold. Here the walk takes a
tile of candidates at a time:

1. a tile loses what the candidates kept so far suppress: one (kept x tile) table;
2. inside the tile the greedy choice is the only fixed point of
   ``keep[i] = alive[i] and no kept j < i overlaps i``; iterating from "all alive"
   settles one more link of each chain of overlaps a turn, so it ends after as many
   turns as the longest chain has links, two or three in practice;
3. the survivors are appended to the kept list, and the walk ends when that is full.

Nothing here depends on the threshold. (The tiled versions that circulate in other
JAX detectors have 0.5 written into step 2 and differ from greedy NMS below it.)
Memory is (M + T) x T overlaps for M outputs and tiles of T, whatever N is.
"""

import jax
import jax.numpy as jnp
from jax import lax

from .boxes import iou


def nms(
    boxes: jax.Array,
    scores: jax.Array,
    classes: jax.Array,
    valid: jax.Array,
    *,
    iou_threshold: float,
    max_outputs: int,
    tile: int = 256,
) -> tuple[jax.Array, jax.Array]:
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
      tile: T, candidates judged at once; a question of speed only.

    Returns:
      indices: (M,) int32 rows of `boxes`, 0 where nothing was left to keep.
      kept: (M,) bool.

    Raises:
      ValueError: when a threshold or size is out of range.

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
    num_boxes = boxes.shape[0]
    tile = min(tile, num_boxes)
    valid = valid & (scores > -jnp.inf)  # False for NaN
    count = valid.sum(dtype=jnp.int32)
    scores = jnp.where(valid, scores.astype(jnp.float32), -jnp.inf)
    order = jnp.argsort(-scores, stable=True).astype(jnp.int32)
    order = jnp.pad(order, (0, -num_boxes % tile))
    boxes = boxes.astype(jnp.float32)[order]
    classes = classes[order]

    position = jnp.arange(tile)
    earlier = position[:, None] < position[None, :]  # j stands before i

    def walk(state):
        start, num_kept, kept_rows, kept_boxes, kept_classes = state
        tile_rows = lax.dynamic_slice_in_dim(order, start, tile)
        tile_boxes = lax.dynamic_slice_in_dim(boxes, start, tile)
        tile_classes = lax.dynamic_slice_in_dim(classes, start, tile)

        def overlap(others, other_classes):
            same = other_classes[:, None] == tile_classes[None, :]
            return (iou(others, tile_boxes) > iou_threshold) & same

        is_kept = jnp.arange(max_outputs) < num_kept
        by_kept = overlap(kept_boxes, kept_classes) & is_kept[:, None]
        alive = (start + position < count) & ~by_kept.any(axis=0)  # (T,)
        within = overlap(tile_boxes, tile_classes) & earlier  # (T, T)

        def refine(keeping):
            keep, _ = keeping
            return alive & ~(within & keep[:, None]).any(axis=0), keep

        keep, _ = lax.while_loop(
            lambda keeping: (keeping[0] != keeping[1]).any(),
            refine,
            refine((alive, alive)),
        )
        # Those that no longer fit get a place outside and are dropped.
        place = jnp.where(keep, num_kept + jnp.cumsum(keep) - 1, max_outputs)
        return (
            start + tile,
            jnp.minimum(num_kept + keep.sum(dtype=jnp.int32), max_outputs),
            kept_rows.at[place].set(tile_rows, mode="drop"),
            kept_boxes.at[place].set(tile_boxes, mode="drop"),
            kept_classes.at[place].set(tile_classes, mode="drop"),
        )

    _, num_kept, indices, _, _ = lax.while_loop(
        lambda state: (state[0] < count) & (state[1] < max_outputs),
        walk,
        (
            jnp.zeros((), jnp.int32),
            jnp.zeros((), jnp.int32),
            jnp.zeros((max_outputs,), jnp.int32),
            jnp.zeros((max_outputs, 4), jnp.float32),
            jnp.zeros((max_outputs,), classes.dtype),
        ),
    )
    return indices, jnp.arange(max_outputs) < num_kept
