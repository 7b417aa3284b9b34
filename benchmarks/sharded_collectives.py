"""The bytes a train step moves in each mode of `train.shard`, with and without phi.

`benchmarks.collectives` prints this for eight devices of the CPU. The steps are the
trainer's own, around a loss that reads every parameter and nothing else: what a network
computes between gathering and scattering sends nothing.
"""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from agvm_jax.compiling.collectives import KINDS, collectives
from agvm_jax.optim.modules import label_tree
from agvm_jax.optim.noise import noise_init
from agvm_jax.training.batching import plan_batches
from agvm_jax.training.mesh import data_mesh, replica_axes
from agvm_jax.training.partition import Partition, bytes_a_device
from agvm_jax.training.recipes import build_optimizer
from agvm_jax.training.sharded_step import make_step
from agvm_jax.training.state import create_state
from configs import base

ESTIMATORS = ("norms", "halves")


def loss(params, model_state, batch, key):
    """Return half the squared norm of all parameters, times the batch's mean."""
    del key
    leaves = jax.tree.leaves(params)
    value = sum(jnp.vdot(w, w) for w in leaves) * batch.mean() / 2
    return value, (model_state, {})


def lower_step(mode: str, fsdp: int, estimator: str, measure: bool, params, devices):
    """Return a train step, lowered, and the state's shapes with their shardings."""
    config = base.get_config()
    config.agvm.update(estimator=estimator)
    recipe = build_optimizer(
        config.optim,
        config.agvm,
        batch_size=len(devices),
        total_steps=100,
        steps_per_epoch=10,
    )
    mesh = data_mesh(devices, None if mode == "none" else fsdp)
    partition = Partition(mesh, mode)
    plan = plan_batches(len(devices), len(devices), estimator=estimator)
    step = make_step(loss, recipe, plan, partition, label_tree(params))

    def initial():
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), params)
        return create_state(zeros, {}, recipe.tx.init(zeros), noise_init(params), 0)

    state = partition.like(jax.eval_shape(initial))
    rows = NamedSharding(mesh, PartitionSpec(replica_axes(mesh)))
    batch = jax.ShapeDtypeStruct((len(devices),), jnp.float32, sharding=rows)
    return step.programs[measure]["single"].lower(state, batch), state, partition


def ideal(mode: str, fsdp: int, devices: int, size: int) -> float:
    """Return the bytes that a device must send for the mean gradient of ``size`` bytes.

    By the ring algorithms, everything in float32 and every parameter cut in equal
    parts: none 2 P (n-1)/n; optimizer the same, half of it for gradients and half for
    parameters; full 2 P (f-1)/f over the axis fsdp, and 2 P/f (d-1)/d over data.
    """
    if mode != "full":
        return 2 * size * (devices - 1) / devices
    data = devices // fsdp
    return 2 * size * (fsdp - 1) / fsdp + 2 * size / fsdp * (data - 1) / data


def print_modes(params, devices, fsdp_sizes=(2, 8)) -> None:
    """Compile a step in every mode for these devices and print a line for each."""
    n = len(devices)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    print(f"\ntrain.shard, {n} devices: MB a device")
    print(f"{'':16}{'phi by':10}{'state':>8}{'ideal':>8}{'compiled':>10}  compiled to")
    modes = [("none", 1), *((m, f) for m in ("optimizer", "full") for f in fsdp_sizes)]
    for mode, fsdp in modes:
        for estimator, measure in (("norms", False), *((e, True) for e in ESTIMATORS)):
            lowered, state, partition = lower_step(
                mode, fsdp, estimator, measure, params, devices
            )
            found = collectives(lowered.compile().as_text(), n)
            kinds = [one.kind for one in found]
            counts = ", ".join(f"{kinds.count(k)} {k}" for k in KINDS if k in kinds)
            specs = partition.state_specs(state)
            held = bytes_a_device(state, specs, partition.mesh) / 1e6
            must = ideal(mode, fsdp, n, size) / 1e6
            moved = sum(one.moved for one in found) / 1e6
            shape = mode if mode == "none" else f"{mode} {n // fsdp}x{fsdp}"
            print(
                f"{shape:16}{estimator if measure else '-':10}{held:8.1f}{must:8.1f}"
                f"{moved:10.1f}  {counts}",
                flush=True,
            )
