"""Non-maximum suppression for the CPU, a tile of candidates at a time.

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

import jax.numpy as jnp
from jax import lax

from ..ops.boxes import iou


def nms(boxes, scores, classes, valid, *, iou_threshold, max_outputs, tile, runs):
    """Return the rows that greedy NMS keeps; see `ops.nms`."""
    del runs  # a tile is small whatever stands in it
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
