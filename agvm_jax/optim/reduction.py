"""Turns the replicas' gradients into their mean and phi; the collectives live here.

What a measurement costs beside the mean all-reduce of P bytes over n replicas:

* ``replicas``: one psum of h scalars, h the number of modules;
* ``halves``: one psum of 3 h scalars. The mean is not all-reduced but taken apart:
  reduce-scatter inside each half, partners exchange what the other one owns, and one
  all-gather brings the mean to everybody. That moves 2 P (n-1) / n bytes a device, as
  a plain all-reduce does, and on the way each device holds both half sums of its share.

The second form needs collectives over parts of an axis. ``shard_map`` (``check_vma``
on or off) and ``pmap`` have them; ``vmap(axis_name=...)`` and an axis that is a tuple of
mesh axes do not, and there two masked sums give the same numbers ("masked").
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from agvm_jax.optim.modules import FROZEN, is_inexact, leaf_labels, module_names
from agvm_jax.optim.variance import (
    Estimator,
    GroupStats,
    Split,
    check_groups,
    float32_vdot,
    half_of,
    module_sq_norms,
    module_vdot,
    stats_from_halves,
    stats_from_replicas,
    stats_of_groups,
)

PyTree = Any
AxisName = str | tuple[str, ...]
Route = Literal["auto", "scatter", "masked"]


def value_and_local_grad(
    loss_fn: Callable[..., Any],
    axis_name: AxisName | None = None,
    has_aux: bool = True,
) -> Callable[..., Any]:
    """Return a function that gives the loss and the replica's *own* gradient.

    Like ``jax.value_and_grad`` in the first argument. The one difference: under
    ``shard_map(check_vma=True)`` the gradient of replicated parameters arrives summed over
    the replicas, which leaves nothing to measure; here the parameters are first marked
    as varying, so that each replica keeps its own. Under ``check_vma=False``, ``pmap``,
    ``vmap`` and without an axis it is ``jax.value_and_grad``.

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
        sharded over another mesh axis), or "auto": scatter wherever it can be done.

    Returns:
      The mean gradients, in their own dtype, and the statistics; the same on all
      replicas.

    Raises:
      ValueError: one replica; an odd number of them with halves; gradients that were
        already summed over the axis; an axis that is not there.
    """
    num_groups = axis_size(axis_name)
    check_groups(num_groups, estimator, split)
    _check_not_summed(grads, axis_name)
    grads = as_varying(grads, axis_name)
    if estimator == "replicas":
        mean = mean_gradients(grads, axis_name)
        mean_sq = psum_scalars(
            module_sq_norms(weighted(weights, grads), labels), axis_name
        )
        mean_sq = {m: value / num_groups for m, value in mean_sq.items()}
        sq_mean = module_sq_norms(weighted(weights, mean), labels)
        return mean, stats_from_replicas(mean_sq, sq_mean, num_groups)
    if route == "auto":
        route = "scatter" if _has_grouped_collectives(axis_name) else "masked"
    if route == "scatter":
        return _halves_by_scatter(grads, axis_name, num_groups, labels, split, weights)
    return _halves_by_masks(grads, axis_name, num_groups, labels, split, weights)


def mean_and_phi_of_groups(
    stacked_grads: PyTree,
    labels: PyTree,
    estimator: Estimator = "halves",
    split: Split = "interleaved",
) -> tuple[PyTree, GroupStats]:
    """Average gradients over a leading axis of groups and measure each module's phi.

    >>> grads = {"fpn": jnp.array([[2.0, 0.0], [0.0, 2.0]])}
    >>> mean, stats = mean_and_phi_of_groups(grads, {"fpn": "fpn"})
    >>> mean["fpn"].tolist(), float(stats.phi["fpn"])
    ([1.0, 1.0], 1.0)
    """
    stats = stats_of_groups(stacked_grads, labels, estimator, split)
    return jax.tree.map(lambda g: g.mean(0).astype(g.dtype), stacked_grads), stats


def mean_gradients(grads: PyTree, axis_name: AxisName) -> PyTree:
    """Average gradients over an axis; leaves that are not floats pass as they are."""
    leaves, treedef = jax.tree.flatten(grads)
    floats = [g for g in leaves if is_inexact(g)]
    means = iter(jax.lax.pmean(floats, axis_name) if floats else [])
    return jax.tree.unflatten(
        treedef, [next(means) if is_inexact(g) else g for g in leaves]
    )


def axis_size(axis_name: AxisName) -> int:
    """Return the number of replicas on an axis, or say that there is no such axis."""
    try:
        return jax.lax.axis_size(axis_name)
    except NameError as error:
        raise ValueError(
            f"there is no axis {axis_name!r} here: run the update inside shard_map, pmap "
            "or vmap with that axis name, or average the gradients yourself and pass phi="
        ) from error


def as_varying(tree: PyTree, axis_name: AxisName | None) -> PyTree:
    """Mark leaves as differing between replicas, where the type system keeps track.

    Only ``shard_map(check_vma=True)`` does; anywhere else this returns ``tree``.
    """
    if axis_name is None or not _tracks_varying(axis_name):
        return tree

    def mark(leaf: Any) -> Any:
        missing = tuple(a for a in _axes(axis_name) if a not in _varying_axes(leaf))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(mark, tree)


def _halves_by_masks(
    grads: PyTree,
    axis_name: AxisName,
    num_groups: int,
    labels: PyTree,
    split: Split,
    weights: PyTree | None,
) -> tuple[PyTree, GroupStats]:
    """Sum each half over the whole axis, the other half's gradients set to zero."""
    half = half_of(jax.lax.axis_index(axis_name), num_groups, split)

    def half_sum(which: int) -> PyTree:
        masked = jax.tree.map(
            lambda g: jnp.where(half == which, g, 0).astype(g.dtype), grads
        )
        return jax.lax.psum(masked, axis_name)

    a, b = half_sum(0), half_sum(1)
    mean = jax.tree.map(
        lambda x, y, g: ((x + y) / num_groups).astype(g.dtype) if is_inexact(g) else g,
        a,
        b,
        grads,
    )
    scale = 2.0 / num_groups  # from half sums to half means
    a, b = weighted(weights, a, scale), weighted(weights, b, scale)
    stats = stats_from_halves(
        module_vdot(a, b, labels),
        module_sq_norms(a, labels),
        module_sq_norms(b, labels),
    )
    return mean, stats


def _halves_by_scatter(
    grads: PyTree,
    axis_name: str,
    num_groups: int,
    labels: PyTree,
    split: Split,
    weights: PyTree | None,
) -> tuple[PyTree, GroupStats]:
    """Take the mean apart so that both half sums pass by; see the top of the file."""
    names = module_names(labels)
    leaves, treedef = jax.tree.flatten(grads)
    flat_weights = [None] * len(leaves) if weights is None else jax.tree.leaves(weights)
    products = {m: jnp.zeros((3,), jnp.float32) for m in names}
    means = list(leaves)
    for (label, _), indices in _buckets(leaves, labels, grads).items():
        flat = jnp.concatenate([leaves[i].ravel() for i in indices])
        scale = None
        if weights is not None:
            scale = jnp.concatenate(
                [flat_weights[i].astype(jnp.float32).ravel() for i in indices]
            )
        mean, product = _halve_bucket(flat, axis_name, num_groups, split, scale)
        if label != FROZEN:
            products[label] += product
        start = 0
        for i in indices:
            stop = start + leaves[i].size
            means[i] = mean[start:stop].reshape(leaves[i].shape)
            start = stop
    # One psum for all modules: each device holds the products of its own share.
    total = jax.lax.psum(jnp.stack([products[m] for m in names]), axis_name)
    dot, sq_a, sq_b = (
        {m: total[row, column] for row, m in enumerate(names)} for column in range(3)
    )
    return jax.tree.unflatten(treedef, means), stats_from_halves(dot, sq_a, sq_b)


def _halve_bucket(
    flat: jax.Array,
    axis_name: str,
    num_groups: int,
    split: Split,
    weights: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """Average one flat vector (P,); also return this device's share of the products.

    Returns:
      The mean (P,) and (3,) float32: a . b, ||a||^2, ||b||^2 over the share.
    """
    n, size = num_groups, flat.size
    members = _half_members(n, split)
    pairs = list(zip(*members, strict=True))
    half = half_of(jax.lax.axis_index(axis_name), n, split)
    flat = jnp.pad(flat, (0, -size % n))
    share = flat.size // n
    # Before: everybody has its own (P,). After: member j of a half has the j-th of n/2
    # slices of its half's sum, and its partner, member j of the other half, the same
    # slice of the other sum.
    slices = jax.lax.psum_scatter(
        flat, axis_name, axis_index_groups=members, scatter_dimension=0, tiled=True
    ).reshape(2, share)
    # Of that slice the first half's member owns the first part, its partner the second.
    # After: the owner has both half sums of its part, (P / n,) each.
    ours = slices[half]
    theirs = jax.lax.ppermute(
        slices[1 - half], axis_name, [*pairs, *((b, a) for a, b in pairs)]
    )
    # After: everybody has the mean (P,), in the order of the devices.
    mean = _all_gather((ours + theirs) / n, axis_name)
    if split == "contiguous":  # device order is first members, then their partners
        mean = mean.reshape(2, n // 2, share).swapaxes(0, 1).ravel()
    scale = 2.0 / n  # from half sums to half means
    if weights is not None:
        member = jnp.asarray(_positions(members, n))[jax.lax.axis_index(axis_name)]
        weights = jnp.pad(weights, (0, -size % n))
        part = jax.lax.dynamic_slice(weights, ((2 * member + half) * share,), (share,))
        scale = scale * part
    ours, theirs = (
        ours.astype(_wide(ours)) * scale,
        theirs.astype(_wide(theirs)) * scale,
    )
    sq_ours, sq_theirs = float32_vdot(ours, ours), float32_vdot(theirs, theirs)
    product = jnp.stack(
        [
            float32_vdot(ours, theirs),
            jnp.where(half == 0, sq_ours, sq_theirs),
            jnp.where(half == 0, sq_theirs, sq_ours),
        ]
    )
    return mean[:size], product


def _half_members(num_groups: int, split: Split) -> list[list[int]]:
    """Return the replicas of the first and of the second half."""
    replicas = list(range(num_groups))
    if split == "interleaved":
        return [replicas[0::2], replicas[1::2]]
    return [replicas[: num_groups // 2], replicas[num_groups // 2 :]]


def _positions(members: list[list[int]], num_groups: int) -> list[int]:
    """Return the place of each replica inside its half."""
    places = [0] * num_groups
    for half in members:
        for place, replica in enumerate(half):
            places[replica] = place
    return places


def _buckets(
    leaves: list[jax.Array], labels: PyTree, grads: PyTree
) -> dict[tuple[str, Any], list[int]]:
    """Group the leaves of each module by dtype: one collective a bucket, not a leaf."""
    buckets: dict[tuple[str, Any], list[int]] = {}
    for i, (label, leaf) in enumerate(
        zip(leaf_labels(labels, grads), leaves, strict=True)
    ):
        if is_inexact(leaf) and leaf.size:
            buckets.setdefault((label, leaf.dtype), []).append(i)
    return buckets


def psum_scalars(
    values: dict[str, jax.Array], axis_name: AxisName
) -> dict[str, jax.Array]:
    """Sum a dict of scalars over an axis in one collective."""
    total = jax.lax.psum(jnp.stack(list(values.values())), axis_name)
    return {name: total[i] for i, name in enumerate(values)}


def weighted(weights: PyTree | None, grads: PyTree, scale: float = 1.0) -> PyTree:
    """Return weights * grads * scale in float32 or wider."""

    def leaf(g: jax.Array, w: Any = 1.0) -> jax.Array:
        return g.astype(_wide(g)) * (w * scale) if is_inexact(g) else g

    if weights is None:
        return jax.tree.map(leaf, grads)
    return jax.tree.map(leaf, grads, weights)


def _wide(x: jax.Array) -> Any:
    return jnp.promote_types(x.dtype, jnp.float32)


def _axes(axis_name: AxisName) -> tuple[str, ...]:
    return axis_name if isinstance(axis_name, tuple) else (axis_name,)


def _has_grouped_collectives(axis_name: AxisName) -> bool:
    """Whether the axis is one manual mesh axis: shard_map's or pmap's, not vmap's."""
    manual = jax.sharding.get_abstract_mesh().manual_axes
    return isinstance(axis_name, str) and axis_name in manual


def _varying_axes(x: Any) -> frozenset:
    """Return the axes over which a value is known to vary."""
    aval = jax.typeof(x)
    # jax 0.10 calls it manual axis type; releases before called it vma.
    return aval.mat.varying if hasattr(aval, "mat") else aval.vma


def _tracks_varying(axis_name: AxisName) -> bool:
    """Whether we are under shard_map(check_vma=True): only there an index varies."""
    axis_size(axis_name)  # for its error
    first = _axes(axis_name)[0]
    return first in _varying_axes(jax.lax.axis_index(first))


def _all_gather(x: jax.Array, axis_name: str) -> jax.Array:
    """Gather shares so that, where it is tracked, the result counts as replicated."""
    to = "invarying" if _tracks_varying(axis_name) else "varying"
    return jax.lax.all_gather(x, axis_name, tiled=True, to=to)


def _check_not_summed(grads: PyTree, axis_name: AxisName) -> None:
    """Raise where the type of the gradients says that they are the same everywhere."""
    if not _tracks_varying(axis_name):
        return
    floats = [g for g in jax.tree.leaves(grads) if is_inexact(g)]
    if not any(set(_axes(axis_name)) & _varying_axes(g) for g in floats):
        raise ValueError(
            f"the gradients are the same on every replica of {axis_name!r}, so there is "
            "no variance to measure: under shard_map(check_vma=True) jax.grad gives them "
            "already summed. Take them with value_and_local_grad(loss_fn, axis_name)"
        )
