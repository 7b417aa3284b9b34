"""The device mesh, and how host arrays get onto it.

Every device is a replica: it has a share of the batch of its own. There is one axis,
``data``; or there are two, ``data`` and ``fsdp``, where state is sharded
(`training.partition` says how): the devices along ``fsdp`` are neighbours.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

DATA_AXIS = "data"
FSDP_AXIS = "fsdp"


def data_mesh(
    devices: Sequence[jax.Device] | None = None, fsdp_size: int | None = None
) -> Mesh:
    """Returns a mesh over ``devices`` (default: all devices of all hosts).

    Args:
      devices: in the order of their replicas.
      fsdp_size: None for the axis ``data`` alone; or how many devices in a row make up
        the axis ``fsdp``.

    Built with `Mesh` because `jax.make_mesh` makes Explicit axes by default, and the
    train step is written for Auto ones.
    """
    devices = jax.devices() if devices is None else devices
    if fsdp_size is None:
        return Mesh(np.asarray(devices), (DATA_AXIS,))
    grid = np.asarray(devices).reshape(-1, fsdp_size)
    return Mesh(grid, (DATA_AXIS, FSDP_AXIS))


def replica_axes(mesh: Mesh) -> str | tuple[str, ...]:
    """Returns the name, or names, of the axes over which replicas lie: all of them.

    One name where it is one: parts of an axis can be summed over, and of several
    together not.
    """
    names = mesh.axis_names
    return names[0] if len(names) == 1 else tuple(names)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of parameters: every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: the leading axis is shared out over the devices."""
    return NamedSharding(mesh, PartitionSpec(replica_axes(mesh)))


def put_batch(mesh: Mesh, batch: Any) -> Any:
    """Puts one process's rows of a batch on its devices.

    Args:
      mesh: the data mesh.
      batch: a pytree of host arrays whose leading axis is this process's share of the
        global batch.

    Returns:
      The same pytree of global arrays, sharded over the leading axis.
    """
    sharding = split(mesh)

    def put(array):
        array = np.asarray(array)
        if array.dtype == np.int64:  # image ids; JAX is 32-bit by default
            array = array.astype(np.int32)
        return jax.make_array_from_process_local_data(sharding, array)

    return jax.tree.map(put, batch)


def put_replicated(mesh: Mesh, tree: Any) -> Any:
    """Copies a pytree to every device of the mesh.

    The arrays are fresh buffers, so a state made from them may be donated.
    """
    sharding = replicated(mesh)
    return jax.jit(lambda t: t, out_shardings=sharding)(tree)


def whole(tree: Any) -> Any:
    """Returns a pytree whose arrays this process has whole; all processes call this.

    An array that is shared out over processes comes to the host; others stay as they
    are.
    """

    def leaf(array: jax.Array):
        if array.is_fully_addressable or array.is_fully_replicated:
            return array
        return multihost_utils.process_allgather(array, tiled=True)

    return jax.tree.map(leaf, tree)


def first_process_says(value: bool) -> bool:
    """Returns what process 0 passed, on all processes; all of them call this.

    For a decision that hangs on files, so that no two processes decide differently.
    """
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def rows_of_all(array: np.ndarray) -> np.ndarray:
    """Returns the rows of all processes; all of them call this with as many rows.

    Args:
      array: (n, ...) this process's rows.

    Returns:
      (k * n, ...), those of process 0 first.
    """
    if jax.process_count() == 1:
        return array
    every = multihost_utils.process_allgather(array)  # (k, n, ...)
    return every.reshape(-1, *array.shape[1:])


def local_rows(tree: Any) -> Any:
    """Takes this process's rows of arrays that are split over the leading axis.

    Arrays of a single process are returned as they are, still on the device.
    """

    def rows(array: jax.Array):
        if array.is_fully_addressable:
            return array
        shards = sorted(array.addressable_shards, key=lambda s: s.index[0].start or 0)
        return np.concatenate([np.asarray(shard.data) for shard in shards])

    return jax.tree.map(rows, tree)
