"""With sharded state a step gives what it gives without, on the same replicas."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_step import make_batch, make_config, make_recipe, passes

from agvm_jax.optim.modules import label_tree
from agvm_jax.optim.noise import noise_init
from agvm_jax.training import mesh as mesh_lib
from agvm_jax.training.batching import plan_batches
from agvm_jax.training.partition import Partition
from agvm_jax.training.sharded_step import ShardedTrainStep
from agvm_jax.training.state import create_state
from agvm_jax.training.step import TrainStep

FEATURES, WIDTH = 6, 8
ROWS = 16


def params_of_toy():
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape) / 2, jnp.float32)

    return {
        "backbone": {"kernel": normal(FEATURES, WIDTH), "bias": normal(3)},
        "head": {"kernel": normal(WIDTH, 16), "out": normal(16)},
    }


def loss_over(axes):
    def loss(params, model_state, batch, key):
        """Two modules, a frozen kernel, a running mean, and noise from the key."""
        backbone, head = params["backbone"], params["head"]
        x = batch["x"] + 0.1 * jax.random.normal(key, batch["x"].shape)
        hidden = jnp.tanh(x @ backbone["kernel"]) @ model_state["frozen"]["kernel"]
        hidden = jnp.tanh(hidden) + backbone["bias"].sum()
        error = jnp.tanh(hidden @ head["kernel"]) @ head["out"] - batch["y"]
        value = jnp.mean(error**2)
        mean = 0.9 * model_state["mean"] + 0.1 * batch["x"].mean(0)
        model_state = model_state | {"mean": jax.lax.pmean(mean, axes)}
        return value, (model_state, {"square": value})

    return loss


BASE = {"optim.name": "adamw", "agvm.estimator": "norms", "agvm.tau": 2}
FSDP = {"8x1": 1, "4x2": 2, "2x4": 4, "1x8": 8}
slow = pytest.mark.slow


def run_steps(mode, fsdp, micro_batch_size, steps, tx, overrides):
    """Returns the state, the metrics of each step, and the step object."""
    settings = BASE | dict(overrides)
    config, recipe = make_config(**settings), make_recipe(ROWS, **settings)
    if tx is not None:
        tx = optax.with_extra_args_support(tx())
        recipe = dataclasses.replace(recipe, tx=tx, agvm=None)
    mesh = mesh_lib.data_mesh(fsdp_size=None if mode == "none" else fsdp)
    partition = Partition(mesh, mode, least_size=16)
    plan = plan_batches(ROWS, 8, micro_batch_size, estimator=config.agvm.estimator)
    params = params_of_toy()
    labels = label_tree(params)
    frozen = {"kernel": jnp.eye(WIDTH) + 0.1}
    state = create_state(
        params,
        {"mean": jnp.zeros(FEATURES), "frozen": frozen},
        recipe.tx.init(params),
        noise_init(params),
        seed=0,
    )
    loss = loss_over(mesh_lib.replica_axes(mesh))
    if mode == "none":
        step = TrainStep(loss, recipe, plan, mesh, labels, 64)
    else:
        step = ShardedTrainStep(loss, recipe, plan, partition, labels, 64)
    state, lines = partition.put(state), []
    for index in range(steps):
        batches = passes(make_batch(ROWS, seed=index), plan, mesh)
        state, metrics = step(state, batches, index)
        lines.append(jax.device_get(metrics))
    return state, lines, step


@functools.cache
def replicated(*one):
    state, lines, _ = run_steps("none", 1, *one)
    return jax.device_get(state), lines


def check_same(mode, fsdp, micro_batch_size=0, steps=3, tx=None, **overrides):
    """Compares steps with sharded state to the same without; returns the former."""
    one = micro_batch_size, steps, tx, tuple(overrides.items())
    expected, lines = replicated(*one)
    state, sharded, step = run_steps(mode, fsdp, *one)
    close = functools.partial(chex.assert_trees_all_close, rtol=2e-4, atol=2e-6)
    close(jax.device_get(state), expected)
    for ours, theirs in zip(sharded, lines, strict=True):
        close(ours, theirs)
    return state, step


@pytest.mark.parametrize("mode, shape", [("optimizer", "4x2"), ("full", "2x4")])
def test_a_step_is_that_of_replicated_state(mode, shape):
    """At steps with a measurement and without one."""
    check_same(mode, FSDP[shape])


@pytest.mark.slow
@pytest.mark.parametrize("shape", FSDP)
@pytest.mark.parametrize("mode", ["optimizer", "full"])
def test_on_every_shape_of_the_mesh(mode, shape):
    check_same(mode, FSDP[shape], steps=2, **{"agvm.tau": 1})


# What looks at more than one entry, at a replica's own gradient, or at both.
CASES = {
    "clip": {"optim.clip_norm": 0.1, "agvm.enabled": False},
    "lars": {"optim.name": "lars"},
    "lamb": {"optim.name": "lamb"},
    "sam": {"optim.name": "sam", "optim.sam_rho": 0.5},
    "synced sam": {"optim.name": "sam", "optim.sam_rho": 0.5, "optim.sam_synced": True},
    "halves": {"agvm.estimator": "halves"},
    "contiguous": {"agvm.estimator": "halves", "agvm.split": "contiguous"},
    "preconditioned": {"agvm.precondition": True},
    "preconditioned halves": {"agvm.precondition": True, "agvm.estimator": "halves"},
}
QUICK = {("optimizer", "halves"), ("full", "lars"), ("full", "halves")}


@pytest.mark.parametrize(
    "mode, case",
    [
        pytest.param(mode, case, marks=() if (mode, case) in QUICK else slow)
        for mode in ("optimizer", "full")
        for case in CASES
    ],
)
def test_whatever_an_optimizer_looks_at(mode, case):
    check_same(mode, 2, steps=2, **{"agvm.tau": 1} | CASES[case])


def test_a_global_norm_is_that_of_all_shards():
    """Inside shard_map clip_by_global_norm(1) left a norm of 2."""

    def tx():
        return optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0))

    state, _ = check_same("full", 4, steps=1, tx=tx, **{"optim.lr": 0.0})
    moved = jax.tree.map(jnp.subtract, jax.device_get(state.params), params_of_toy())
    np.testing.assert_allclose(optax.tree.norm(moved), 1.0, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["optimizer", "full"])
def test_muon(mode):
    check_same(mode, 2, steps=2, tx=lambda: optax.contrib.muon(0.1))


@pytest.mark.parametrize("estimator", ["norms", "halves"])
@pytest.mark.parametrize("mode", ["optimizer", "full"])
@pytest.mark.slow
def test_micro_batches(mode, estimator):
    settings = {"agvm.tau": 1, "agvm.estimator": estimator}
    check_same(mode, 4, micro_batch_size=1, steps=2, **settings)


def test_what_is_held_is_what_was_promised():
    """Compiled state lies as the partition says, after a step as before it."""
    for mode in ("optimizer", "full"):
        state, _, step = run_steps(mode, 4, 0, 1, None, ())
        partition = step._partition
        expected = partition.shardings(partition.state_specs(state))
        for leaf, sharding in zip(
            jax.tree.leaves(state), jax.tree.leaves(expected), strict=True
        ):
            assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
        moment = optax.tree.get(state.opt_state, "nu")["head"]["kernel"]
        parts = 8 if mode == "optimizer" else 4
        assert moment.addressable_shards[0].data.size * parts == moment.size
        kernel = state.params["head"]["kernel"].sharding
        assert kernel.is_fully_replicated == (mode == "optimizer")


def test_one_device_has_nothing_to_shard():
    mesh = mesh_lib.data_mesh(jax.devices()[:1], 1)
    plan = plan_batches(4, 1, 2)
    with pytest.raises(ValueError, match=r"two devices and more.*train.shard=none"):
        ShardedTrainStep(
            loss_over(()), make_recipe(4), plan, Partition(mesh, "full"), {}
        )
