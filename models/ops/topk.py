"""The k largest of millions of scores without sorting them all.

XLA's `top_k` sorts its whole input on most devices, and a one-stage detector asks for
1000 of 12 million (anchor, class) scores a level. If the input is cut into groups, the
k largest values lie in the k groups with the largest maxima: only the maxima and the
members of k groups need be sorted.
"""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Int32, Num

from .arrays import Array

# Below this many values to each one wanted a plain sort is as fast.
_PLAIN = 8


def top_k(
    values: Num[Array, "..."], k: int
) -> tuple[Num[Array, " {k}"], Int32[Array, " {k}"]]:
    """Return the k largest values and where they stand: what `lax.top_k` returns.

    Exactly: of equal values the earlier comes first and is preferred.

    Args:
      values: (N,), without NaN.
      k: at most N.

    Returns:
      values (k,), largest first, and indices (k,) int32.

    Raises:
      ValueError: when `values` has another rank or k is out of range.

    >>> values, indices = top_k(jnp.array([0.3, 0.9, 0.1, 0.9]), 3)
    >>> indices.tolist()
    [1, 3, 0]
    """
    if values.ndim != 1 or not 0 < k <= values.shape[0]:
        raise ValueError(
            f"top_k of {k} values from shape {values.shape}: one dimension that holds "
            "at least k values is needed; jax.vmap does batches"
        )
    size = values.shape[0]
    if size <= _PLAIN * k:
        return tuple(lax.top_k(values, k))  # of a list
    # size / group maxima and k * group members: the sum is least at this group size.
    group = math.ceil(math.sqrt(size / k))
    floating = jnp.issubdtype(values.dtype, jnp.floating)
    lowest = -jnp.inf if floating else jnp.iinfo(values.dtype).min
    # Padding stands last, so among equals it is preferred to nothing real.
    groups = jnp.pad(values, (0, -size % group), constant_values=lowest)
    groups = groups.reshape(-1, group)
    _, chosen = top_k(groups.max(axis=1), k)
    chosen = jnp.sort(chosen)  # in the input's order, so that ties fall as they should
    best, place = top_k(groups[chosen].reshape(-1), k)
    return best, chosen[place // group] * group + place % group


def top_k_pairs(
    scores: Num[Array, "R C"], k: int
) -> tuple[Num[Array, " k"], Int32[Array, " k"], Int32[Array, " k"]]:
    """Return the k largest entries of a table, with their rows and columns.

    The same as `top_k` of the flattened table, ties included, but the groups are the
    rows, so that the table is read once and never laid out anew.

    Args:
      scores: (R, C), without NaN: anchors by classes.
      k: more than R * C is R * C.

    Returns:
      values (k,), largest first, rows (k,) and columns (k,) int32.

    >>> values, rows, columns = top_k_pairs(jnp.array([[1, 5], [9, 7]]), 3)
    >>> rows.tolist(), columns.tolist()
    ([1, 1, 0], [0, 1, 1])
    """
    num_rows, num_columns = scores.shape
    _, chosen = top_k(scores.max(axis=1), min(k, num_rows))
    chosen = jnp.sort(chosen)
    size = chosen.shape[0] * num_columns
    best, place = top_k(scores[chosen].reshape(-1), min(k, size))
    return best, chosen[place // num_columns], place % num_columns
