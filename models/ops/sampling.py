"""A random sample of fixed size, with a bounded share of positives.

An image has a few positive and very many negative anchors; the region losses look at
some of each (Fast R-CNN, section 2.3; Faster R-CNN, section 3.1.3). Each candidate
gets a random number and the largest win: no shuffle of all anchors, and no shape that
depends on how many there are.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Int32, Key

from .arrays import Array
from .topk import top_k


def sample_balanced(
    key: Key[Array, ""],
    positive: Bool[Array, " A"],
    negative: Bool[Array, " A"],
    *,
    size: int,
    positive_fraction: float,
) -> tuple[Int32[Array, " {size}"], Bool[Array, " {size}"], Bool[Array, " {size}"]]:
    """Return the rows of a random sample, positives first.

    At most ``int(size * positive_fraction)`` positives, each equally likely; the rest
    is filled with negatives as far as there are any. Negatives make up for missing
    positives, never the other way round. Batches: `jax.vmap` over keys too.

    Args:
      key: of `jax.random.key`.
      positive: (A,) bool.
      negative: (A,) bool, nowhere True together with `positive`.
      size: S, rows of the sample; it may be larger than A.
      positive_fraction: in [0, 1].

    Returns:
      rows: (S,) int32, 0 where nothing was left to choose.
      chosen: (S,) bool, False in those places.
      is_positive: (S,) bool, True for the chosen positives.

    Raises:
      ValueError: when the size or the fraction is out of range.

    >>> positive = jnp.array([False, True, False, True])
    >>> rows, chosen, is_positive = sample_balanced(
    ...     jax.random.key(0), positive, ~positive, size=6, positive_fraction=0.5
    ... )
    >>> sorted(rows[:2].tolist()), chosen.tolist()
    ([1, 3], [True, True, True, True, False, False])
    """
    if size < 1 or not 0.0 <= positive_fraction <= 1.0:
        raise ValueError(
            f"a sample of {size} with a share {positive_fraction} of positives: at "
            "least 1, and a share in [0, 1], are needed"
        )
    count = positive.shape[0]
    # 31 random bits: 24, as in a float, would let early rows win too many ties.
    bits = (jax.random.bits(key, (count,), jnp.uint32) >> 1).astype(jnp.int32)

    def best(flags, most):
        """Return at least one row, and how many rows were found."""
        _, rows = top_k(jnp.where(flags, bits, -1), min(max(most, 1), count))
        return rows, jnp.minimum(flags.sum(dtype=jnp.int32), most)

    positives, num_positives = best(positive, int(size * positive_fraction))
    negatives, num_negatives = best(negative, size)
    place = jnp.arange(size)
    is_positive = place < num_positives
    chosen = place < num_positives + num_negatives
    rows = jnp.where(
        is_positive,
        positives[jnp.minimum(place, positives.shape[0] - 1)],
        negatives[jnp.clip(place - num_positives, 0, negatives.shape[0] - 1)],
    )
    return jnp.where(chosen, rows, 0), chosen, is_positive
