"""Turns the replicas' gradients into their mean and phi: the one measuring engine.

What a measurement costs beside the mean all-reduce of P bytes over n replicas:

* ``norms``: one psum of h scalars, h the number of modules;
* ``halves`` of two replicas: one psum of 2 h scalars, because
  2 a . b = ||a + b||^2 - ||a||^2 - ||b||^2, and the sum is there anyway;
* ``halves`` of more: one psum of 3 h scalars. The mean is not all-reduced but taken
  apart, see ``halves.py``; that moves the 2 P (n-1) / n bytes a device of a plain
  all-reduce.

The last needs collectives over parts of an axis. ``shard_map`` (``check_vma`` on or
off) and ``pmap`` have them; ``vmap(axis_name=...)`` and an axis that is a tuple of mesh
axes do not, and there two masked sums give the same numbers.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from agvm_jax.optim.floats import divided, is_inexact, psum_floats, weighted
from agvm_jax.optim.halves import by_masks, by_scatter
from agvm_jax.optim.options import Estimator, Split, check_groups
from agvm_jax.optim.replicas import (
    AxisName,
    Shards,
    as_varying,
    axis_size,
    check_not_summed,
    find_shards,
    has_grouped_collectives,
    joined,
)
from agvm_jax.optim.variance import (
    GroupStats,
    ModuleScalars,
    module_sq_norms,
    no_stats,
    stats_from_halves,
    stats_from_norms,
    stats_from_products,
)

PyTree = Any
Route = Literal["auto", "scatter", "masked"]


def mean_and_phi(
    grads: PyTree,
    axis_name: AxisName,
    labels: PyTree,
    estimator: Estimator = "halves",
    split: Split = "interleaved",
    weights: PyTree | None = None,
    route: Route = "auto",
    shard_axes: AxisName | PyTree | None = None,
) -> tuple[PyTree, GroupStats]:
    """Average the replicas' gradients and measure each module's phi on the way.

    Args:
      grads: the replica's own gradients (``value_and_local_grad``).
      axis_name: the axis of replicas.
      labels: pytree of str shaped like ``grads``, from ``label_tree``.
      estimator: "halves", one cosine between half batches (the paper), or "norms", the
        average over all splits from norms alone (ours).
      split: which replicas make a half: "interleaved" (even and odd, the paper) or
        "contiguous" (first and second half, the released code).
      weights: None, or a pytree like ``grads``, the same on all replicas; the statistic
        is then that of ``weights * grads``. The mean stays that of ``grads``.
      route: how halves are taken: "scatter", "masked" (an all-reduce for each half, as
        in the paper: twice the bytes, but nothing is flattened, which suits parameters
        sharded over another mesh axis), or "auto": from norms if there are two
        replicas, else scatter wherever it can be done.
      shard_axes: where parameters are sharded over further manual mesh axes: their
        names, or a pytree like ``grads`` with a name or tuple for each leaf, () for a
        leaf that is whole on every device. Norms are then summed over these axes, so
        that phi is that of the whole module. () says that nothing is sharded.

    Returns:
      The mean gradients, in their own dtype, and the statistics; both the same on all
      replicas.

    Raises:
      ValueError: one replica; an odd number of them with halves; gradients that were
        already summed over the axis; an axis that is not there; other manual axes of
        which nothing was said.

    >>> def measure(grads):
    ...     return mean_and_phi(grads, "data", {"fpn": "fpn"})
    >>> grads = {"fpn": jnp.array([[2.0, 0.0], [0.0, 2.0]])}  # of two replicas
    >>> mean, stats = jax.vmap(measure, axis_name="data", out_axes=None)(grads)
    >>> mean["fpn"].tolist(), float(stats.phi["fpn"])
    ([1.0, 1.0], 1.0)
    """
    total, stats = total_and_stats(
        grads,
        axis_name,
        labels,
        estimator,
        split,
        weights,
        route=route,
        shard_axes=shard_axes,
    )
    return divided(total, axis_size(axis_name)), stats


def total_and_stats(
    grads: PyTree,
    axis_name: AxisName | None,
    labels: PyTree,
    estimator: Estimator = "halves",
    split: Split = "interleaved",
    weights: PyTree | None = None,
    *,
    route: Route = "auto",
    shard_axes: AxisName | PyTree | None = None,
    own: tuple[ModuleScalars, int] | None = None,
    due: bool | jax.Array = True,
) -> tuple[PyTree, GroupStats]:
    """Sum the replicas' gradients and measure; ``mean_and_phi`` before its division.

    A sum that is divided where it is used needs no memory for the quotient: the
    compiler divides on the way into the optimizer.

    Args:
      grads, axis_name, labels, estimator, split, weights, route, shard_axes: as in
        ``mean_and_phi``; an ``axis_name`` of None is one replica.
      own: with norms, the groups that a replica holds by itself, micro-batches: the sum
        of their squared norms and their number. ``grads`` is then their mean.
      due: whether to measure. False leaves a plain sum; a traced one decides when the
        program runs, and the statistics are nan if it is false.
    """
    num_groups = axis_size(axis_name) * (own[1] if own else 1)
    if due is False:
        return sum_gradients(grads, axis_name), no_stats(labels, num_groups)
    check_groups(num_groups, estimator, split)
    if axis_name is None:
        shards = Shards()
    else:
        check_not_summed(grads, axis_name)
        shards = find_shards(grads, axis_name, shard_axes)
    from_norms = _needs_norms_only(estimator, axis_name, grads)

    if from_norms and route == "auto" or estimator == "norms":
        # In two parts, so that the replica's own gradients need not be kept beside
        # their sum. And the sum stays outside the condition: there the compiler may
        # start it while the backward pass still runs.
        def own_norms(grads: PyTree) -> ModuleScalars:
            norms = module_sq_norms(weighted(weights, grads), labels, shards.shares)
            return as_varying(norms, joined(axis_name, shards.axes))

        def stats_of_total(norms: ModuleScalars, total: PyTree) -> GroupStats:
            return _stats_of_norms(
                norms, total, axis_name, num_groups, labels, estimator, weights, shards
            )

        nothing = no_stats(labels, num_groups)
        if own:
            norms = own[0]
        else:
            # Both branches of a condition have one type: varying over the replicas.
            varying = as_varying(nothing.phi, joined(axis_name, shards.axes))
            norms = _when(due, own_norms, varying, grads)
        total = sum_gradients(grads, axis_name)
        return total, _when(due, stats_of_total, nothing, norms, total)

    assert axis_name is not None  # one replica has no halves: refused above
    if route == "auto":
        route = "scatter" if has_grouped_collectives(axis_name) else "masked"
    if route not in ("scatter", "masked"):
        raise ValueError(f"route={route!r} is unknown: use auto, scatter or masked")

    def measured(grads: PyTree) -> tuple[PyTree, GroupStats]:
        by = by_masks if route == "masked" else by_scatter
        total, products = by(grads, axis_name, labels, split, weights, shards)
        # By scatter each device has the products of its own share of the axis.
        share_of = None if route == "masked" else axis_name
        products = psum_scalars(products, joined(share_of, shards.axes))
        return total, stats_from_halves(products)

    def summed(grads: PyTree) -> tuple[PyTree, GroupStats]:
        return sum_gradients(grads, axis_name), no_stats(labels, 2)

    if due is True:
        return measured(grads)
    return jax.lax.cond(due, measured, summed, grads)


def _when(
    due: bool | jax.Array, function: Callable[..., PyTree], else_: PyTree, *args: Any
) -> PyTree:
    """Return ``function(*args)``, or ``else_`` where it is not due."""
    if due is True:
        return function(*args)
    return jax.lax.cond(due, function, lambda *args: else_, *args)


def _needs_norms_only(
    estimator: Estimator, axis_name: AxisName | None, grads: PyTree
) -> bool:
    """Whether the replicas' own norms and that of their sum are all it takes.

    Halves of two replicas: only if the sum is rounded no more than float32, since what
    they have in common is then a difference of norms.
    """
    if estimator == "norms":
        return True
    floats = [g.dtype for g in jax.tree.leaves(grads) if is_inexact(g)]
    precise = all(jnp.finfo(dtype).bits >= 32 for dtype in floats)
    return axis_size(axis_name) == 2 and precise


def _stats_of_norms(
    norms: ModuleScalars,
    total: PyTree,
    axis_name: AxisName | None,
    num_groups: int,
    labels: PyTree,
    estimator: Estimator,
    weights: PyTree | None,
    shards: Shards,
) -> GroupStats:
    """Return the statistics from own squared norms and the sum; psums of scalars."""
    mean = divided(total, axis_size(axis_name))
    sq_mean = module_sq_norms(weighted(weights, mean), labels, shards.shares)
    sq_mean = psum_scalars(sq_mean, shards.axes)
    axes = joined(axis_name, shards.axes)
    if estimator == "norms":
        sum_sq = psum_scalars(norms, axes)
        mean_sq = {m: value / num_groups for m, value in sum_sq.items()}
        return stats_from_norms(mean_sq, sq_mean, num_groups)
    # Each half is one replica; either puts its norms into a column of its own.
    mine = jnp.arange(2) == jax.lax.axis_index(axis_name)
    both = psum_scalars({m: value * mine for m, value in norms.items()}, axes)
    sq_a, sq_b = ({m: value[half] for m, value in both.items()} for half in (0, 1))
    # ||(a + b) / 2||^2 = (||a||^2 + ||b||^2) / 4 + a . b / 2
    dot = {m: 2.0 * sq_mean[m] - (sq_a[m] + sq_b[m]) / 2.0 for m in norms}
    return stats_from_products(dot, sq_a, sq_b)


def sum_gradients(grads: PyTree, axis_name: AxisName | None) -> PyTree:
    """Sum gradients over an axis; leaves that are not floats pass as they are."""
    if axis_name is None:
        return grads
    return psum_floats(grads, axis_name)


def mean_gradients(grads: PyTree, axis_name: AxisName) -> PyTree:
    """Average gradients over an axis; leaves that are not floats pass as they are."""
    return divided(sum_gradients(grads, axis_name), axis_size(axis_name))


def psum_scalars(
    values: dict[str, jax.Array], axes: AxisName | None
) -> dict[str, jax.Array]:
    """Sum a dict of scalars, or of short vectors, over axes in one collective."""
    if not axes:
        return values
    total = jax.lax.psum(as_varying(jnp.stack(list(values.values())), axes), axes)
    return {name: total[i] for i, name in enumerate(values)}
