"""Connecting the processes of a run on CPUs before any of them is busy.

Programs of several processes on CPUs talk through Gloo. It connects the devices of a
group (all of them, those along an axis, one of each process) when a program first sends
something within it, and gives up where one comes 30 seconds later than the others; no
option changes that. Processes compile, read and evaluate at a pace of their own, so
that they come late is a matter of load. So all groups are connected at the start, right
behind a barrier at which they wait for each other for as long as it takes. Once
connected, they wait for half an hour.

On GPUs and TPUs there is nothing to do.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from orbax.checkpoint import multihost

PATIENCE = 3600  # seconds; a process that dies is noticed by JAX much sooner

Group = Sequence[int]  # places in the mesh, counted along its last axis first


def connect(mesh: Mesh) -> None:
    """Connects every group of devices in which a run sends; all processes call this.

    Args:
      mesh: the run's, with all devices.
    """
    devices = mesh.devices.ravel()
    if jax.process_count() == 1 or devices[0].platform != "cpu":
        return
    line = Mesh(devices, ("all",))
    program = _program(line, groups_of(mesh))
    rows = jax.ShapeDtypeStruct(
        (devices.size,), jnp.float32, sharding=NamedSharding(line, P("all"))
    )
    compiled = program.lower(rows).compile()
    mine = np.ones(len(line.local_devices), np.float32)
    ones = jax.make_array_from_process_local_data(rows.sharding, mine)
    wait_for_all("connect")
    jax.block_until_ready(compiled(ones))


def wait_for_all(name: str) -> None:
    """Returns when all processes are here; nothing is sent between their devices.

    Args:
      name: of the place, for messages. A name may come again.
    """
    _calls[name] = _calls.get(name, 0) + 1
    barrier = multihost.get_barrier_sync_fn()
    barrier(key=f"agvm_jax/{name}/{_calls[name]}", timeout_ms=1000 * PATIENCE)


_calls: dict[str, int] = {}  # a barrier's name is good for one meeting


def groups_of(mesh: Mesh) -> list[tuple[Group, ...]]:
    """Returns the ways in which a run divides its devices into groups that send.

    All together; along each axis of the mesh; one device of each process, as
    `jax.experimental.multihost_utils` sends; both halves of the replicas, as
    `optim.halves` splits them.
    """
    places = np.arange(mesh.size).reshape(mesh.devices.shape)
    line = places.ravel()
    ways = [line[None]]
    for axis in range(places.ndim):
        ways.append(np.moveaxis(places, axis, -1).reshape(-1, places.shape[axis]))
    process = np.array([device.process_index for device in mesh.devices.ravel()])
    of_each = [line[process == number] for number in np.unique(process)]
    if len({len(own) for own in of_each}) == 1:
        ways.append(np.stack(of_each, axis=1))
    if mesh.size % 2 == 0:
        ways += [line.reshape(-1, 2).T, line.reshape(2, -1)]
    found = {tuple(map(tuple, way.tolist())): None for way in ways}
    return [way for way in found if len(way[0]) > 1]


def _program(mesh: Mesh, ways: list[tuple[Group, ...]]):
    @jax.jit
    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=P("all"), out_specs=P("all"), check_vma=False
    )
    def program(ones):
        for way in ways:
            groups = [list(group) for group in way]
            ones = jax.lax.psum(ones, "all", axis_index_groups=groups) / len(groups[0])
        return ones

    return program
