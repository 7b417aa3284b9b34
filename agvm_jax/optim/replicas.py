"""What is known about an axis of replicas where code is being traced.

Four things can carry an axis name: ``shard_map`` with ``check_vma`` on or off, ``pmap``
and ``vmap``. They differ in which collectives they have, and the first keeps track, in
the type of every array, of whether it varies over the axis. All of that is asked here.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from agvm_jax.optim.floats import is_inexact

PyTree = Any
AxisName = str | tuple[str, ...]


class Shards(NamedTuple):
    """How gradients lie over the mesh axes that hold shards of parameters.

    Attributes:
      axes: the axes over which any parameter is sharded; () if none is.
      shares: what a leaf's own square counts for in a sum over ``axes``: 1 where its
        shards differ, 1 / size where all devices hold the same. None: 1 everywhere.
    """

    axes: tuple[str, ...] = ()
    shares: tuple[float, ...] | None = None


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

    >>> from jax import numpy as jnp
    >>> loss_and_grad = value_and_local_grad(lambda w, x: (w * x) ** 2, has_aux=False)
    >>> loss, grad = loss_and_grad(jnp.array(1.0), jnp.array(3.0))
    >>> float(grad)
    18.0
    """
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=has_aux)

    def local(params: PyTree, *args: Any, **kwargs: Any) -> Any:
        return value_and_grad(as_varying(params, axis_name), *args, **kwargs)

    return local


def axis_size(axis_name: AxisName | None) -> int:
    """Return the number of replicas on an axis, or say that there is no such axis."""
    if axis_name is None:
        return 1
    try:
        return jax.lax.axis_size(axis_name)
    except NameError as error:
        raise ValueError(
            f"there is no axis {axis_name!r} here: run the update inside shard_map, "
            "pmap or vmap with that axis name, or average the gradients yourself and "
            "pass phi="
        ) from error


def as_varying(tree: PyTree, axis_name: AxisName | None) -> PyTree:
    """Mark leaves as differing between replicas, where the type system keeps track.

    Only ``shard_map(check_vma=True)`` does; anywhere else this returns ``tree``.
    """
    if not axis_name or not tracks_varying(axis_name):
        return tree

    def mark(leaf: Any) -> Any:
        if not is_inexact(leaf):
            return leaf
        missing = tuple(a for a in _axes(axis_name) if a not in _varying_axes(leaf))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(mark, tree)


def tracks_varying(axis_name: AxisName) -> bool:
    """Whether we are under shard_map(check_vma=True): only there an index varies."""
    axis_size(axis_name)  # for its error
    first = _axes(axis_name)[0]
    return first in _varying_axes(jax.lax.axis_index(first))


def has_grouped_collectives(axis_name: AxisName) -> bool:
    """Whether gradients can be flattened and summed over parts of the axis.

    The axis must be one manual mesh axis, shard_map's or pmap's, not vmap's. And no
    other mesh axis may be left to the compiler: parameters can be sharded over it, and
    flattening would gather them.
    """
    mesh = jax.sharding.get_abstract_mesh()
    manual = mesh.manual_axes
    left = [a for a in mesh.axis_names if a not in manual and mesh.shape[a] > 1]
    return isinstance(axis_name, str) and axis_name in manual and not left


def find_shards(
    grads: PyTree, axis_name: AxisName, shard_axes: AxisName | PyTree | None
) -> Shards:
    """Say over which axes the leaves of ``grads`` are shards of larger arrays.

    Args:
      grads: the replica's own gradients.
      axis_name: the axis of replicas.
      shard_axes: None; or the mesh axes over which all parameters are sharded, a name
        or a tuple; or a pytree shaped like ``grads`` with such a name or tuple for each
        leaf, () for one that is whole on every device.

    Raises:
      ValueError: nothing was said and there is another manual axis, over which shards
        might lie: each device would measure a phi of its own shard.
    """
    replicas = _axes(axis_name)
    if shard_axes is None:
        mesh = jax.sharding.get_abstract_mesh()
        others = [
            a for a in mesh.manual_axes if a not in replicas and mesh.shape[a] > 1
        ]
        if others and tracks_varying(others[0]):
            # The types tell: what varies over no other axis is no shard.
            varying = [_varying_axes(g) for g in jax.tree.leaves(grads)]
            others = [a for a in others if any(a in v for v in varying)]
        if others:
            raise ValueError(
                f"the mesh has other manual axes than {axis_name!r}: "
                f"{', '.join(map(repr, others))}. Parameters that are sharded over "
                "them would be measured shard by shard. Say shard_axes= with the axes "
                "that hold shards of parameters, or shard_axes=() if every device "
                "holds all of them"
            )
        return Shards()
    if isinstance(shard_axes, str) or _is_names(shard_axes):
        return Shards(_axes(shard_axes))
    per_leaf = jax.tree.leaves(
        shard_axes, is_leaf=lambda x: isinstance(x, str) or _is_names(x)
    )
    if len(per_leaf) != len(jax.tree.leaves(grads)):
        raise ValueError(
            f"shard_axes names axes for {len(per_leaf)} leaves but there are "
            f"{len(jax.tree.leaves(grads))} gradients: give one name or tuple a leaf, "
            "() for a leaf that is whole everywhere"
        )
    per_leaf = [_axes(axes) for axes in per_leaf]
    union = tuple(sorted({a for axes in per_leaf for a in axes}))
    shares = tuple(
        1 / math.prod(axis_size(a) for a in union if a not in axes) for axes in per_leaf
    )
    return Shards(union, shares)


def check_not_summed(grads: PyTree, axis_name: AxisName) -> None:
    """Raise where the type of the gradients says that they are the same everywhere."""
    if not tracks_varying(axis_name):
        return
    floats = [g for g in jax.tree.leaves(grads) if is_inexact(g)]
    if not any(set(_axes(axis_name)) & _varying_axes(g) for g in floats):
        raise ValueError(
            f"the gradients are the same on every replica of {axis_name!r}, so there "
            "is no variance to measure: under shard_map(check_vma=True) jax.grad gives "
            "them summed. Take them with value_and_local_grad(loss_fn, axis_name)"
        )


def joined(*axes: AxisName | None) -> tuple[str, ...]:
    """Return several axis names as one tuple; None and () add nothing."""
    return tuple(name for one in axes if one for name in _axes(one))


def _axes(axis_name: AxisName) -> tuple[str, ...]:
    return axis_name if isinstance(axis_name, tuple) else (axis_name,)


def _is_names(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(a, str) for a in value)


def _varying_axes(x: Any) -> frozenset[str]:
    """Return the axes over which a value is known to vary."""
    aval = jax.typeof(x)
    # The "manual axis type"; releases before jax 0.10 had its varying axes as .vma.
    return aval.mat.varying if hasattr(aval, "mat") else aval.vma
