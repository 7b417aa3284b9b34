"""What is known about an axis of replicas where code is being traced.

Four things can carry an axis name: ``shard_map`` with ``check_vma`` on or off, ``pmap``
and ``vmap``. They differ in which collectives they have, and the first keeps track, in
the type of every array, of whether it varies over the axis. All of that is asked here.
"""

from typing import Any

import jax

from agvm_jax.optim.modules import is_inexact, map_floats

PyTree = Any
AxisName = str | tuple[str, ...]


def axis_size(axis_name: AxisName) -> int:
    """Return the number of replicas on an axis, or say that there is no such axis."""
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
    if axis_name is None or not tracks_varying(axis_name):
        return tree

    def mark(leaf: Any) -> Any:
        missing = tuple(a for a in _axes(axis_name) if a not in _varying_axes(leaf))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return map_floats(mark, tree)


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


def _axes(axis_name: AxisName) -> tuple[str, ...]:
    return axis_name if isinstance(axis_name, tuple) else (axis_name,)


def _varying_axes(x: Any) -> frozenset[str]:
    """Return the axes over which a value is known to vary."""
    aval = jax.typeof(x)
    # The "manual axis type"; releases before jax 0.10 had its varying axes as .vma.
    return aval.mat.varying if hasattr(aval, "mat") else aval.vma
