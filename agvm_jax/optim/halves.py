"""Two ways to sum over replicas so that both half-batch sums pass by.

By masks: two all-reduces. By scatter, at no extra traffic:

A ring all-reduce of P bytes over n replicas moves 2 P (n-1) / n bytes a device and
leaves nothing but the sum. Here, for each module, n replicas in two halves of n/2:

1. reduce-scatter inside each half: member j then has slice j (2 P / n bytes) of its
   half's sum. Moves P (n-2) / n.
2. member j and its partner in the other half, which has the same slice of the other
   sum, exchange them. Each then has both half sums of that slice, and so its part of
   a . b, ||a||^2 and ||b||^2. Moves 2 P / n.
3. all-gather of the sum inside each half. Moves P (n-2) / n.

(Under ``check_vma=True`` partners exchange half a slice each, P / n, and the gather is
over all replicas, P (n-1) / n: only then does the sum count as replicated.)

Together 2 P (n-1) / n, as before. One psum of 3 h scalars completes the products.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from agvm_jax.optim.floats import divided, map_floats, psum_floats, wide
from agvm_jax.optim.modules import FROZEN, leaf_labels, module_names
from agvm_jax.optim.options import Split
from agvm_jax.optim.replicas import (
    AxisName,
    Shards,
    as_varying,
    axis_size,
    tracks_varying,
)
from agvm_jax.optim.variance import float32_vdot, half_of, products_of_halves

PyTree = Any

LANES = 128  # of a TPU's tiles; a harmless choice anywhere else


def by_masks(
    grads: PyTree,
    axis_name: AxisName,
    labels: PyTree,
    split: Split,
    weights: PyTree | None,
    shards: Shards,
) -> tuple[PyTree, dict[str, jax.Array]]:
    """Sum each half over the whole axis, the other half's gradients set to zero.

    As the paper does it, at twice the bytes, with nothing but whole sums. Returns as
    ``by_scatter``, but the products are those of whole gradients.
    """
    num_replicas = axis_size(axis_name)
    half = half_of(jax.lax.axis_index(axis_name), num_replicas, split)

    def half_sum(which: int) -> PyTree:
        def leaf(g: jax.Array) -> jax.Array:
            return jax.lax.psum(jnp.where(half == which, g, 0), axis_name)

        return map_floats(leaf, grads)

    def mean(total: PyTree) -> PyTree:
        count = num_replicas // 2
        return divided(total, count)

    first, second = half_sum(0), half_sum(1)
    products = products_of_halves(
        mean(first), mean(second), labels, weights, shards.shares
    )
    return map_floats(jnp.add, first, second), products


def by_scatter(
    grads: PyTree,
    axis_name: AxisName,
    labels: PyTree,
    split: Split,
    weights: PyTree | None,
    shards: Shards,
) -> tuple[PyTree, dict[str, jax.Array]]:
    """Sum gradients over an axis and measure the halves' cosines on the way.

    Args:
      grads: the replica's own.
      axis_name: an axis with collectives over parts (``has_grouped_collectives``), of
        an even size.
      labels: pytree of str shaped like ``grads``.
      split: which replicas make a half.
      weights: None, or a pytree of what multiplies each gradient in the statistic only.
      shards: how the gradients lie over further axes.

    Returns:
      The sum of each leaf, the same on all replicas; and (3,) float32 a module, the
      products a . b, ||a||^2 and ||b||^2 of the half means over this device's share.
      They are still to be summed over the axis.
    """
    n = axis_size(axis_name)
    leaves, treedef = jax.tree.flatten(grads)
    flat_labels = leaf_labels(labels, grads)
    factors = None if weights is None else jax.tree.leaves(weights)
    measured = [
        i
        for i, (label, leaf) in enumerate(zip(flat_labels, leaves, strict=True))
        if label != FROZEN and leaf.size
    ]
    own = as_varying({i: leaves[i] for i in measured}, axis_name)
    shares = shards.shares or (1.0,) * len(leaves)
    # A module of which no leaf holds anything has no measurement, but has its place.
    products = {m: jnp.zeros((3,), jnp.float32) for m in module_names(labels)}
    totals = {}
    for (label, _, share), indices in _buckets(own, flat_labels, shares).items():
        flat = _concatenate([own[i] for i in indices])
        factor = None
        if factors is not None:
            factor = _concatenate([factors[i].astype(jnp.float32) for i in indices])
        total, product = _halve(flat, axis_name, n, split, factor)
        products[label] += product * share
        start = 0
        for i in indices:
            totals[i] = total[start : start + own[i].size].reshape(own[i].shape)
            start += own[i].size
    # What is not measured is summed as usual.
    rest = {i: leaf for i, leaf in enumerate(leaves) if i not in totals}
    totals |= psum_floats(rest, axis_name)
    total = jax.tree.unflatten(treedef, [totals[i] for i in range(len(leaves))])
    return total, products


def _halve(
    flat: jax.Array,
    axis_name: AxisName,
    n: int,
    split: Split,
    factor: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """Sum one flat vector over n replicas.

    Args:
      flat: (P,) the replica's own.
      factor: None or (P,) float32, multiplied into the products but not the sum.

    Returns:
      The sum, (P,), and (3,) float32: a . b, ||a||^2 and ||b||^2 of the half means
      over what this device holds of both; halved where its partner holds it too.
    """
    size = flat.size
    first, second = members = _members(n, split)
    pairs = list(zip(first, second, strict=True))
    index = jax.lax.axis_index(axis_name)
    half = half_of(index, n, split)
    tracked = tracks_varying(axis_name)

    def own(slices: jax.Array) -> jax.Array:
        """Of one slice, what this device shall have of both sums: all, or its part."""
        return slices.reshape(2, -1, LANES)[half][None] if tracked else slices

    # Before: everybody has its own (n/2, rows, lanes). After: member j of a half has
    # slice j of its half's sum, (1, rows, lanes).
    slices = jax.lax.psum_scatter(
        _in_slices(flat, n),
        axis_name,
        axis_index_groups=members,
        scatter_dimension=0,
        tiled=True,
    )
    ours = own(slices)
    given = slices.reshape(2, -1, LANES)[1 - half][None] if tracked else slices
    # After: both partners have slice j, or their parts of it, of both half sums.
    theirs = jax.lax.ppermute(given, axis_name, [*pairs, *((b, a) for a, b in pairs)])
    total = ours + theirs
    if tracked:
        # Only a gather over the whole axis gives a result that counts as the same
        # everywhere. After: all parts, (n, rows / 2, lanes), in the order of devices.
        total = jax.lax.all_gather(total, axis_name, tiled=True, to="invarying")
        if split == "contiguous":  # the first half's members come before their partners
            total = total.reshape(2, n // 2, -1).swapaxes(0, 1)
    else:
        # After: all slices, (n/2, rows, lanes), from one's own half.
        total = jax.lax.all_gather(
            total, axis_name, axis_index_groups=members, tiled=True
        )

    scale = 2.0 / n  # from half sums to half means
    if factor is not None:
        member = index // 2 if split == "interleaved" else index % (n // 2)
        factor = jax.lax.dynamic_slice_in_dim(_in_slices(factor, n), member, 1)
        scale = scale * own(factor)
    ours, theirs = wide(ours) * scale, wide(theirs) * scale
    sq_ours, sq_theirs = float32_vdot(ours, ours), float32_vdot(theirs, theirs)
    sq_first = jnp.where(half == 0, sq_ours, sq_theirs)
    sq_second = jnp.where(half == 0, sq_theirs, sq_ours)
    product = jnp.stack([float32_vdot(ours, theirs), sq_first, sq_second])
    return total.ravel()[:size], product if tracked else product / 2


def _in_slices(flat: jax.Array, n: int) -> jax.Array:
    """Shape (P,) into the slices of n/2 members, (n/2, rows, lanes), rows even.

    The leading axis is what is scattered and gathered. A TPU lays out the last two in
    tiles; on a flat vector, whose slices would cut tiles, its compiler makes an
    all-reduce of a reduce-scatter and of an all-gather, at twice the bytes.
    """
    flat = jnp.pad(flat, (0, -flat.size % (n * LANES)))
    return flat.reshape(n // 2, -1, LANES)


def _members(n: int, split: Split) -> list[list[int]]:
    """Return the replicas of the first and of the second half, as ``half_of`` does."""
    if split == "interleaved":
        return [list(range(0, n, 2)), list(range(1, n, 2))]
    return [list(range(n // 2)), list(range(n // 2, n))]


def _buckets(
    leaves: dict[int, jax.Array], labels: Sequence[str], shares: Sequence[float]
) -> dict[tuple[str, jnp.dtype, float], list[int]]:
    """Group each module's leaves by dtype: one collective a bucket, not one a leaf."""
    buckets: dict[tuple[str, jnp.dtype, float], list[int]] = {}
    for i, leaf in leaves.items():
        buckets.setdefault((labels[i], leaf.dtype, shares[i]), []).append(i)
    return buckets


def _concatenate(leaves: list[jax.Array]) -> jax.Array:
    return jnp.concatenate([leaf.ravel() for leaf in leaves])
