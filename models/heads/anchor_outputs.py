"""What a head says of anchors, and how it is laid out.

The last axis of every map holds what is said at one place, anchor by anchor: A x C
numbers, as the convolution leaves them. Accelerators keep arrays in tiles of 128
numbers along that axis. With a row for each anchor it would be 4 for deltas, and the
largest level of an RPN alone would take 0.2 GB in place of 20 MB (4 images of 832 x
1344 px); and 80 for class scores, for which a TPU's compiler counts a quarter more
cycles and 2.6 times the memory (benchmarks/chip_parts.py).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Float, Float32, Integer

from ..ops.arrays import Array


class AnchorOutputs(NamedTuple):
    """Scores and deltas of the anchors of a pyramid, one array a level, finest first.

    Attributes:
      logits: (B, H, W, A x K) float32 each; K is 1 for an RPN.
      deltas: (B, H, W, A x 4) float32 each, see `ops.boxes.decode`.
      anchors: (H * W * A, 4) float32 each, in the order of `ops.anchors`: the same.
    """

    logits: list[Float32[Array, "B H W A*K"]]
    deltas: list[Float32[Array, "B H W A*4"]]
    anchors: list[Float32[Array, "H*W*A 4"]]


def by_place(maps: Float[Array, "*B H W C"]) -> Float[Array, "*B H*W C"]:
    """Join the places of (..., H, W, A x C) to (..., H * W, A x C)."""
    *rest, height, width, channels = maps.shape
    return maps.reshape(*rest, height * width, channels)


def deltas_of(
    deltas: Float[Array, "P A4"], rows: Integer[Array, " R"]
) -> Float[Array, "R 4"]:
    """Return the deltas of some anchors of one image, picked by place first.

    Args:
      deltas: (P, A x 4), those of a place in a row.
      rows: (R,) int, anchors in the order of `ops.anchors`: place by place.

    Returns:
      (R, 4).
    """
    count = deltas.shape[1] // 4
    places = deltas[rows // count].reshape(-1, count, 4)
    wanted = jnp.arange(count) == (rows % count)[:, None]
    return jnp.where(wanted[..., None], places, 0).sum(axis=1)
