"""Averages over replicas so that both half-batch sums pass by, at no extra traffic.

A ring all-reduce of P bytes over n replicas moves 2 P (n-1) / n bytes a device and
leaves nothing but the sum. Here, for each module, n replicas in two halves of n/2:

1. reduce-scatter inside each half: member j then has slice j (2 P / n bytes) of its
   half's sum. Moves P (n-2) / n.
2. member j and its partner in the other half, which has the same slice of the other
   sum, each give away the part of it that the other owns. Each then has both half sums
   of its own P / n bytes, and so its share of a . b, ||a||^2 and ||b||^2. Moves P / n.
3. all-gather of the mean over all replicas. Moves P (n-1) / n.

Together 2 P (n-1) / n, as before. One psum of 3 h scalars completes the products.
"""

import jax
import jax.numpy as jnp

from agvm_jax.optim.modules import module_names
from agvm_jax.optim.replicas import tracks_varying
from agvm_jax.optim.variance import (
    GroupStats,
    Split,
    float32_vdot,
    half_of,
    stats_from_halves,
    wide,
)


def mean_and_stats_by_scatter(
    leaves: list[jax.Array],
    labels: list[str],
    axis_name: str,
    num_replicas: int,
    split: Split,
    factors: list[jax.Array] | None,
) -> tuple[list[jax.Array], GroupStats]:
    """Average gradients over an axis and measure the halves' cosines on the way.

    Args:
      leaves: the replica's own gradients, of any shape and float dtype.
      labels: the module of each.
      axis_name: an axis with collectives over parts (``has_grouped_collectives``).
      num_replicas: its size n, even.
      split: which replicas make a half.
      factors: None, or what multiplies each gradient in the statistic only.

    Returns:
      The mean of each leaf and the statistics, the same on all replicas.
    """
    names = module_names(labels)
    products = {m: jnp.zeros((3,), jnp.float32) for m in names}
    means = list(leaves)
    for (label, _), indices in _buckets(leaves, labels).items():
        flat = _concatenate([leaves[i] for i in indices])
        factor = None
        if factors is not None:
            factor = _concatenate([factors[i].astype(jnp.float32) for i in indices])
        mean, product = _halve(flat, axis_name, num_replicas, split, factor)
        products[label] += product
        start = 0
        for i in indices:
            means[i] = mean[start : start + leaves[i].size].reshape(leaves[i].shape)
            start += leaves[i].size
    # Before: each device has the products of its own share. After: of everything.
    total = jax.lax.psum(jnp.stack([products[m] for m in names]), axis_name)  # (h, 3)
    dot, sq_a, sq_b = (
        {m: total[row, column] for row, m in enumerate(names)} for column in range(3)
    )
    return means, stats_from_halves(dot, sq_a, sq_b)


def _halve(
    flat: jax.Array,
    axis_name: str,
    n: int,
    split: Split,
    factor: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """Average one flat vector over n replicas.

    Args:
      flat: (P,) the replica's own.
      factor: None or (P,) float32, multiplied into the products but not the mean.

    Returns:
      The mean, (P,), and (3,) float32: a . b, ||a||^2 and ||b||^2 of the half means
      over the part that this device owns.
    """
    size = flat.size
    first, second = members = _members(n, split)
    pairs = list(zip(first, second, strict=True))
    index = jax.lax.axis_index(axis_name)
    half = half_of(index, n, split)
    flat = jnp.pad(flat, (0, -size % n))
    share = flat.size // n
    # Before: everybody has its own (P,). After: member j of a half has slice j, two
    # shares long, of its half's sum.
    slices = jax.lax.psum_scatter(
        flat, axis_name, axis_index_groups=members, scatter_dimension=0, tiled=True
    ).reshape(2, share)
    # Of a slice the member of the first half owns the first share, its partner the
    # second. After: the owner has that share of both half sums.
    ours = slices[half]
    theirs = jax.lax.ppermute(
        slices[1 - half], axis_name, [*pairs, *((b, a) for a, b in pairs)]
    )
    # After: everybody has the mean (P,), its shares in the order of the devices. Where
    # the type system tracks what varies, the result counts as the same everywhere.
    to = "invarying" if tracks_varying(axis_name) else "varying"
    mean = jax.lax.all_gather((ours + theirs) / n, axis_name, tiled=True, to=to)
    if split == "contiguous":  # the first half's members come before their partners
        mean = mean.reshape(2, n // 2, share).swapaxes(0, 1).ravel()

    scale = 2.0 / n  # from half sums to half means
    if factor is not None:
        member = index // 2 if split == "interleaved" else index % (n // 2)
        start = (2 * member + half) * share
        factor = jnp.pad(factor, (0, -size % n))
        scale = scale * jax.lax.dynamic_slice(factor, (start,), (share,))
    ours, theirs = wide(ours) * scale, wide(theirs) * scale
    sq_ours, sq_theirs = float32_vdot(ours, ours), float32_vdot(theirs, theirs)
    sq_first = jnp.where(half == 0, sq_ours, sq_theirs)
    sq_second = jnp.where(half == 0, sq_theirs, sq_ours)
    product = jnp.stack([float32_vdot(ours, theirs), sq_first, sq_second])
    return mean[:size], product


def _members(n: int, split: Split) -> list[list[int]]:
    """Return the replicas of the first and of the second half, as ``half_of`` does."""
    if split == "interleaved":
        return [list(range(0, n, 2)), list(range(1, n, 2))]
    return [list(range(n // 2)), list(range(n // 2, n))]


def _buckets(
    leaves: list[jax.Array], labels: list[str]
) -> dict[tuple[str, jnp.dtype], list[int]]:
    """Group each module's leaves by dtype: one collective a bucket, not one a leaf."""
    buckets: dict[tuple[str, jnp.dtype], list[int]] = {}
    for i, (label, leaf) in enumerate(zip(labels, leaves, strict=True)):
        buckets.setdefault((label, leaf.dtype), []).append(i)
    return buckets


def _concatenate(leaves: list[jax.Array]) -> jax.Array:
    return jnp.concatenate([leaf.ravel() for leaf in leaves])
