"""The end of a step whose optimizer state is sharded: mean gradients that stay shards.

Every replica has its own whole gradient, as without sharding, and the measurement is
that of `groups`; but the sum is reduce-scattered, so that each device is left with the
part that its share of the optimizer state is made of. For P bytes over n replicas that
moves P (n-1) / n a device, half of an all-reduce; the other half is what the updated
parameters take to be gathered.

* ``norms`` cost two psums of h scalars beside it: one of the replicas' own squares, one
  of the shards of the mean.
* ``halves`` of replicas scatter both half sums, so P (n-1) / n more, at the steps that
  measure and at no others.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from agvm_jax.optim.floats import (
    divided,
    in_dtypes,
    is_inexact,
    map_floats,
    midway,
    weighted,
)
from agvm_jax.optim.groups import GroupAccumulator, GroupPlan
from agvm_jax.optim.reduction import psum_scalars
from agvm_jax.optim.replicas import Shards, find_shards, joined
from agvm_jax.optim.variance import (
    GroupStats,
    half_of,
    module_sq_norms,
    no_stats,
    products_of_halves,
    stats_from_halves,
    stats_from_norms,
)

PyTree = Any


def finish_scattered(
    plan: GroupPlan,
    accumulator: GroupAccumulator,
    specs: PyTree,
    weights: PyTree | None = None,
    measure: bool = True,
) -> tuple[PyTree, GroupStats]:
    """Do what ``plan.finish`` does, and leave each device with its part of the mean.

    To be called inside ``shard_map(check_vma=False)`` over all axes of the plan.

    Args:
      plan: its ``axis_name`` names all replicas, one mesh axis or several.
      accumulator: after the last micro-batch.
      specs: pytree of ``PartitionSpec`` like the parameters: where their gradients go.
      weights: as in ``plan.finish``, but this device's part of them.
      measure: False leaves the measurement out; the statistics are then nan.

    Returns:
      The mean gradients, as ``specs`` say, in their own dtype; and the statistics, the
      same on all devices.

    Raises:
      ValueError: as ``plan.finish``.
    """
    plan.check(accumulator)
    axes = joined(plan.axis_name)
    shards = _shards_of(accumulator.sums[0], specs, axes)

    def scattered(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda g, spec: scatter_leaf(g, spec, axes), tree, specs)

    halves = None
    if plan.halves_of_micro_batches:
        halves = divided(accumulator.sums, plan.micro_batches // 2)
        if not measure:
            local, halves = midway(*halves), None
    else:
        local = divided(accumulator.sums[0], plan.micro_batches)
        if measure and plan.estimator == "halves":
            halves = _masked_halves(plan, local, axes)

    if halves:
        a, b = (divided(scattered(half), plan.replicas) for half in halves)
        mean = midway(a, b)
        products = products_of_halves(a, b, plan.labels, weights, shards.shares)
        stats = stats_from_halves(psum_scalars(products, shards.axes))
    else:
        mean = divided(scattered(local), plan.replicas)
        stats = no_stats(plan.labels, plan.num_groups)
        if measure:
            stats = _stats_by_norms(plan, accumulator, mean, weights, shards)
    return in_dtypes(mean, accumulator.dtypes), stats


def scatter_leaf(
    leaf: jax.Array, spec: PartitionSpec, axes: tuple[str, ...]
) -> jax.Array:
    """Sum an array over mesh axes and keep the part of it that belongs here.

    Args:
      leaf: this device's own whole array.
      spec: how the sum lies over the axes; it is whole along those not in it.
      axes: all axes to sum over.
    """
    if not is_inexact(leaf):
        return leaf
    placed = [(_names(names), dim) for dim, names in enumerate(spec) if names]
    # The last axis joins the nearest devices, so most of the bytes go over it: what
    # the others are left with is smaller.
    for names, dim in sorted(placed, key=lambda one: -axes.index(one[0][-1])):
        leaf = jax.lax.psum_scatter(leaf, names, scatter_dimension=dim, tiled=True)
    left = tuple(a for a in axes if a not in spec_axes(spec))
    return jax.lax.psum(leaf, left) if left else leaf


def spec_axes(spec: PartitionSpec) -> tuple[str, ...]:
    """Return the mesh axes that occur in a spec."""
    return tuple(name for names in spec if names for name in _names(names))


def _masked_halves(
    plan: GroupPlan, local: PyTree, axes: tuple[str, ...]
) -> list[PyTree]:
    """Return what each half of the replicas adds, times two: their sums are means."""
    half = half_of(jax.lax.axis_index(axes), plan.replicas, plan.split)
    return [
        map_floats(lambda g, k=k: jnp.where(half == k, 2 * g, 0), local) for k in (0, 1)
    ]


def _stats_by_norms(
    plan: GroupPlan,
    accumulator: GroupAccumulator,
    mean: PyTree,
    weights: PyTree | None,
    shards: Shards,
) -> GroupStats:
    sq_mean = module_sq_norms(weighted(weights, mean), plan.labels, shards.shares)
    sq_mean = psum_scalars(sq_mean, shards.axes)
    total = psum_scalars(accumulator.sum_sq, plan.axis_name)
    mean_sq = {m: value / plan.num_groups for m, value in total.items()}
    return stats_from_norms(mean_sq, sq_mean, plan.num_groups)


def _shards_of(grads: PyTree, specs: PyTree, axes: tuple[str, ...]) -> Shards:
    per_leaf = jax.tree.map(lambda _, spec: spec_axes(spec), grads, specs)
    return find_shards(grads, axes, per_leaf)


def _names(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return names if isinstance(names, tuple) else (names,)
