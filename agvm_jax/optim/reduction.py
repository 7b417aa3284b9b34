"""Turns the replicas' gradients into their mean and phi.

What a measurement costs beside the mean all-reduce of P bytes over n replicas:

* ``replicas``: one psum of h scalars, h the number of modules;
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

from agvm_jax.optim.halves import total_and_stats_by_scatter
from agvm_jax.optim.modules import FROZEN, is_inexact, leaf_labels, map_floats
from agvm_jax.optim.replicas import (
    AxisName,
    as_varying,
    axis_size,
    check_not_summed,
    has_grouped_collectives,
)
from agvm_jax.optim.variance import (
    Estimator,
    GroupStats,
    ModuleScalars,
    Split,
    check_groups,
    half_of,
    module_sq_norms,
    module_vdot,
    stats_from_halves,
    stats_from_replicas,
    stats_of_groups,
    wide,
)

PyTree = Any
Route = Literal["auto", "scatter", "masked"]


def value_and_local_grad(
    loss_fn: Callable[..., Any],
    axis_name: AxisName | None = None,
    has_aux: bool = True,
) -> Callable[..., Any]:
    """Return a function that gives the loss and the replica's *own* gradient.

    Like ``jax.value_and_grad`` in the first argument. The one difference: under
    ``shard_map(check_vma=True)`` the gradient of replicated parameters arrives summed
    over the replicas, which leaves nothing to measure; here the parameters are first
    marked as varying, so that each replica keeps its own. Under ``check_vma=False``,
    ``pmap``, ``vmap`` and without an axis it is ``jax.value_and_grad``.

    Args:
      loss_fn: ``loss_fn(params, *args)`` -> loss, or (loss, aux) with ``has_aux``.
      axis_name: the axis over which replicas lie, or None.
      has_aux: whether ``loss_fn`` returns something beside the loss.

    >>> loss_and_grad = value_and_local_grad(lambda w, x: (w * x) ** 2, has_aux=False)
    >>> loss, grad = loss_and_grad(jnp.array(1.0), jnp.array(3.0))
    >>> float(grad)
    18.0
    """
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=has_aux)

    def local(params: PyTree, *args: Any, **kwargs: Any) -> Any:
        return value_and_grad(as_varying(params, axis_name), *args, **kwargs)

    return local


def mean_and_phi(
    grads: PyTree,
    axis_name: AxisName,
    labels: PyTree,
    estimator: Estimator = "halves",
    split: Split = "interleaved",
    weights: PyTree | None = None,
    route: Route = "auto",
) -> tuple[PyTree, GroupStats]:
    """Average the replicas' gradients and measure each module's phi on the way.

    Args:
      grads: the replica's own gradients (``value_and_local_grad``).
      axis_name: the axis of replicas.
      labels: pytree of str shaped like ``grads``, from ``label_tree``.
      estimator: "halves", one cosine between half batches (the paper), or "replicas",
        the average over all splits from norms alone (ours).
      split: which replicas make a half: "interleaved" (even and odd, the paper) or
        "contiguous" (first and second half, the released code).
      weights: None, or a pytree like ``grads``, the same on all replicas; the statistic
        is then that of ``weights * grads``. The mean stays that of ``grads``.
      route: how halves are taken: "scatter", "masked" (an all-reduce for each half, as
        in the paper: twice the bytes, but nothing is flattened, which suits parameters
        sharded over another mesh axis), or "auto": from norms if there are two
        replicas, else scatter wherever it can be done.

    Returns:
      The mean gradients, in their own dtype, and the statistics; both the same on all
      replicas.

    Raises:
      ValueError: one replica; an odd number of them with halves; gradients that were
        already summed over the axis; an axis that is not there.

    >>> def measure(grads):
    ...     return mean_and_phi(grads, "data", {"fpn": "fpn"})
    >>> grads = {"fpn": jnp.array([[2.0, 0.0], [0.0, 2.0]])}  # of two replicas
    >>> mean, stats = jax.vmap(measure, axis_name="data", out_axes=None)(grads)
    >>> mean["fpn"].tolist(), float(stats.phi["fpn"])
    ([1.0, 1.0], 1.0)
    """
    total, stats = total_and_phi(
        grads, axis_name, labels, estimator, split, weights, route
    )
    return divided(total, axis_size(axis_name)), stats


def total_and_phi(
    grads: PyTree,
    axis_name: AxisName,
    labels: PyTree,
    estimator: Estimator = "halves",
    split: Split = "interleaved",
    weights: PyTree | None = None,
    route: Route = "auto",
) -> tuple[PyTree, GroupStats]:
    """Sum the replicas' gradients and measure; ``mean_and_phi`` before its division.

    A sum that is divided where it is used needs no memory for the quotient: the
    compiler divides on the way into the optimizer.
    """
    num_replicas = _check_replicas(grads, axis_name, estimator, split)
    if estimator == "replicas" or (
        route == "auto" and needs_norms_only(estimator, axis_name, grads)
    ):
        norms = own_sq_norms(grads, axis_name, labels, weights)
        total = sum_gradients(grads, axis_name)
        return total, stats_of_norms(
            norms, total, axis_name, labels, estimator, weights
        )
    if route == "auto":
        route = "scatter" if has_grouped_collectives(axis_name) else "masked"
    if route == "masked":
        return _by_masks(grads, axis_name, num_replicas, labels, split, weights)
    if route != "scatter":
        raise ValueError(f"route={route!r} is unknown: use auto, scatter or masked")
    return _by_scatter(grads, axis_name, num_replicas, labels, split, weights)


def mean_and_phi_of_groups(
    stacked_grads: PyTree,
    labels: PyTree,
    estimator: Estimator = "halves",
    split: Split = "interleaved",
) -> tuple[PyTree, GroupStats]:
    """Average gradients over a leading axis of groups and measure each module's phi.

    Arguments as in ``stats_of_groups``. The leading axis may be sharded: this is the
    form for plain ``jit``.

    >>> grads = {"fpn": jnp.array([[2.0, 0.0], [0.0, 2.0]])}
    >>> mean, stats = mean_and_phi_of_groups(grads, {"fpn": "fpn"})
    >>> mean["fpn"].tolist(), float(stats.phi["fpn"])
    ([1.0, 1.0], 1.0)
    """
    stats = stats_of_groups(stacked_grads, labels, estimator, split)
    mean = map_floats(lambda g: wide(g).mean(0).astype(g.dtype), stacked_grads)
    return mean, stats


def mean_gradients(grads: PyTree, axis_name: AxisName) -> PyTree:
    """Average gradients over an axis; leaves that are not floats pass as they are."""
    return divided(sum_gradients(grads, axis_name), axis_size(axis_name))


def sum_gradients(grads: PyTree, axis_name: AxisName) -> PyTree:
    """Sum gradients over an axis; leaves that are not floats pass as they are."""
    return map_floats(lambda g: jax.lax.psum(g, axis_name), grads)


def divided(total: PyTree, count: int) -> PyTree:
    """Return the floats of a tree divided by a number, in their own dtype."""
    return map_floats(lambda g: g / count, total)


def psum_scalars(values: ModuleScalars, axis_name: AxisName) -> ModuleScalars:
    """Sum a dict of scalars, or of short vectors, over an axis in one collective."""
    total = jax.lax.psum(jnp.stack(list(values.values())), axis_name)
    return {name: total[i] for i, name in enumerate(values)}


def weighted(weights: PyTree | None, grads: PyTree) -> PyTree:
    """Return weights * grads in float32 or wider; grads alone without weights."""
    if weights is None:
        return grads
    return map_floats(lambda g, w: wide(g) * w, grads, weights)


def needs_norms_only(estimator: Estimator, axis_name: AxisName, grads: PyTree) -> bool:
    """Whether the replicas' own norms and that of their sum are all it takes.

    Halves of two replicas: only if the sum is rounded no more than float32, since what
    they have in common is then a difference of norms.
    """
    if estimator == "replicas":
        return True
    floats = [g.dtype for g in jax.tree.leaves(grads) if is_inexact(g)]
    precise = all(jnp.finfo(dtype).bits >= 32 for dtype in floats)
    return axis_size(axis_name) == 2 and precise


def own_sq_norms(
    grads: PyTree,
    axis_name: AxisName,
    labels: PyTree,
    weights: PyTree | None = None,
) -> ModuleScalars:
    """Return this replica's squared norms, what ``stats_of_norms`` starts from.

    Arguments and errors as in ``mean_and_phi``.
    """
    check_groups(axis_size(axis_name), "replicas", "interleaved")
    check_not_summed(grads, axis_name)
    norms = module_sq_norms(weighted(weights, grads), labels)
    return as_varying(norms, axis_name)


def stats_of_norms(
    norms: ModuleScalars,
    total: PyTree,
    axis_name: AxisName,
    labels: PyTree,
    estimator: Estimator = "replicas",
    weights: PyTree | None = None,
) -> GroupStats:
    """Return the statistics from ``own_sq_norms`` and the sum; one psum of scalars."""
    num_replicas = axis_size(axis_name)
    mean = divided(total, num_replicas)
    sq_mean = module_sq_norms(weighted(weights, mean), labels)
    if estimator == "replicas":
        sum_sq = psum_scalars(norms, axis_name)
        mean_sq = {m: value / num_replicas for m, value in sum_sq.items()}
        return stats_from_replicas(mean_sq, sq_mean, num_replicas)
    # Each half is one replica; either puts its norms into a column of its own.
    mine = jnp.arange(2) == jax.lax.axis_index(axis_name)
    both = psum_scalars({m: value * mine for m, value in norms.items()}, axis_name)
    sq_a, sq_b = ({m: value[half] for m, value in both.items()} for half in (0, 1))
    # ||(a + b) / 2||^2 = (||a||^2 + ||b||^2) / 4 + a . b / 2
    dot = {m: 2.0 * sq_mean[m] - (sq_a[m] + sq_b[m]) / 2.0 for m in norms}
    return stats_from_halves(dot, sq_a, sq_b)


def _check_replicas(
    grads: PyTree, axis_name: AxisName, estimator: str, split: str
) -> int:
    """Return the number of replicas, or say why they cannot be measured."""
    num_replicas = axis_size(axis_name)
    check_groups(num_replicas, estimator, split)
    check_not_summed(grads, axis_name)
    return num_replicas


def _by_scatter(
    grads: PyTree,
    axis_name: str,
    num_replicas: int,
    labels: PyTree,
    split: Split,
    weights: PyTree | None,
) -> tuple[PyTree, GroupStats]:
    """Take apart the sum of what is measured; sum the rest as usual."""
    flat_labels = leaf_labels(labels, grads)
    leaves, treedef = jax.tree.flatten(grads)
    measured = [
        i
        for i, (label, leaf) in enumerate(zip(flat_labels, leaves, strict=True))
        if label != FROZEN and leaf.size
    ]
    factors = None
    if weights is not None:
        flat_weights = jax.tree.leaves(weights)
        factors = [flat_weights[i] for i in measured]
    totals, stats = total_and_stats_by_scatter(
        as_varying([leaves[i] for i in measured], axis_name),
        [flat_labels[i] for i in measured],
        axis_name,
        num_replicas,
        split,
        factors,
    )
    taken = dict(zip(measured, totals, strict=True))
    rest = {i: leaf for i, leaf in enumerate(leaves) if i not in taken}
    taken |= sum_gradients(rest, axis_name)
    return jax.tree.unflatten(treedef, [taken[i] for i in range(len(leaves))]), stats


def _by_masks(
    grads: PyTree,
    axis_name: AxisName,
    num_replicas: int,
    labels: PyTree,
    split: Split,
    weights: PyTree | None,
) -> tuple[PyTree, GroupStats]:
    """Sum each half over the whole axis, the other half's gradients set to zero."""
    half = half_of(jax.lax.axis_index(axis_name), num_replicas, split)

    def half_sum(which: int) -> PyTree:
        def leaf(g: jax.Array) -> jax.Array:
            return jax.lax.psum(jnp.where(half == which, g, 0), axis_name)

        return map_floats(leaf, grads)

    first, second = half_sum(0), half_sum(1)
    total = map_floats(jnp.add, first, second)
    a, b = (
        weighted(weights, divided(one, num_replicas // 2)) for one in (first, second)
    )
    return total, stats_from_halves(
        module_vdot(a, b, labels),
        module_sq_norms(a, labels),
        module_sq_norms(b, labels),
    )
