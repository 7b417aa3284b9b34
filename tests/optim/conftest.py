"""Ways to run a function on eight replicas, shared by the optimizer's tests."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

AXES = ("shard_map", "shard_map check_vma", "pmap", "vmap", "vmap of jit")


@pytest.fixture(params=AXES)
def on_replicas(request):
    """A function (fn, stacked) -> what fn, given each replica's slice, returns.

    ``fn`` runs where the axis "data" exists and its results are those of all replicas.
    """

    def run(fn, stacked):
        return run_on_replicas(request.param, fn, stacked)

    run.kind = request.param
    return run


def run_on_replicas(kind, fn, stacked):
    replicas = len(jax.tree.leaves(stacked)[0])
    if kind.startswith("shard_map"):
        mesh = jax.make_mesh(
            (replicas,), ("data",), (AxisType.Auto,), devices=jax.devices()[:replicas]
        )
        mapped = jax.shard_map(
            lambda tree: fn(jax.tree.map(lambda x: x[0], tree)),
            mesh=mesh,
            in_specs=PartitionSpec("data"),
            out_specs=PartitionSpec(),
            check_vma=kind.endswith("check_vma"),
        )
        return jax.jit(mapped)(stacked)
    if kind == "pmap":
        devices = jax.devices()[:replicas]
        out = jax.pmap(fn, axis_name="data", devices=devices)(stacked)
    elif kind == "vmap":
        out = jax.jit(jax.vmap(fn, axis_name="data"))(stacked)
    else:
        out = jax.vmap(jax.jit(fn), axis_name="data")(stacked)
    for leaf in map(np.asarray, jax.tree.leaves(out)):
        assert (leaf == leaf[:1]).all() or np.isnan(leaf).all(), "replicas disagree"
    return jax.tree.map(lambda x: x[-1], out)
