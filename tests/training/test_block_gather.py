"""Under full sharding the blocks of a stack are made whole one by one, in its loop."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_step import make_recipe

from agvm_jax.optim.modules import label_tree
from agvm_jax.optim.noise import noise_init
from agvm_jax.training import mesh as mesh_lib
from agvm_jax.training.batching import plan_batches
from agvm_jax.training.partition import Partition
from agvm_jax.training.sharded_step import make_step
from agvm_jax.training.state import create_state
from models.functional import make_detector
from models.layers import BatchNorm
from models.stack import Stack, has_layer_axis

COUNT, WIDTH, ROWS = 8, 16, 16  # as many blocks as devices: that axis must not be cut


class Block(nnx.Module):
    """A product, BatchNorm over all replicas, and a gain of the block's own."""

    def __init__(self, axes, rngs):
        kernel = jax.random.normal(rngs.params(), (WIDTH, WIDTH)) / 4
        self.kernel = nnx.Param(kernel)
        self.bn = BatchNorm(WIDTH, mode="synced", axis_name=axes)

    def __call__(self, x, gain, *, train):
        y = self.bn((x @ self.kernel[...])[:, None, None], train=train)
        return x + gain * jnp.tanh(y[:, 0, 0])


class Model(nnx.Module):
    """A stack and a head, two modules of AGVM."""

    outputs = frozenset()

    def __init__(self, axes, rngs):
        self.backbone = Stack(functools.partial(Block, axes), COUNT, rngs=rngs)
        self.head = nnx.Linear(WIDTH, 4, rngs=rngs)

    def loss(self, batch, key):
        del key
        y = self.backbone(batch, jnp.linspace(1, 0.5, COUNT), train=True)
        value = jnp.square(self.head(y) - 1).mean()
        return value, {"square": value}


def steps_of(mode, micro_batch_size=0, estimator="norms"):
    """Returns the state and the metrics after two steps of AdamW, and the jaxpr."""
    recipe = make_recipe(
        ROWS,
        **{"optim.name": "adamw", "agvm.estimator": estimator, "agvm.tau": 1},
    )
    mesh = mesh_lib.data_mesh(fsdp_size=None if mode == "none" else 4)
    axes = mesh_lib.replica_axes(mesh)
    detector = make_detector(functools.partial(Model, axes), forms="gpu")
    partition = Partition(mesh, mode, least_size=64, layered=has_layer_axis)
    params, model_state = detector.init(jax.random.key(0))
    plan = plan_batches(ROWS, 8, micro_batch_size, estimator=estimator)
    step = make_step(
        detector.loss, recipe, plan, partition, label_tree(params), 64, "float32"
    )
    state = create_state(
        params, model_state, recipe.tx.init(params), noise_init(params), seed=0
    )
    state, lines, program = partition.put(state), [], None
    rng = np.random.default_rng(0)
    rows = plan.images_per_pass
    for index in range(2):
        batches = [
            mesh_lib.put_batch(mesh, rng.normal(size=(rows, WIDTH)).astype("f4"))
            for _ in range(plan.micro_batches)
        ]
        if index == 0 and mode == "full":
            begin = step.start(state, batches[0])
            program = jax.make_jaxpr(step.accumulate)(state, begin, batches[0], 0)
        state, metrics = step(state, iter(batches), index)
        lines.append(metrics)
    return jax.device_get(state), jax.device_get(lines), program, partition


def gathers(jaxpr, inside=False):
    """Yields the shapes of what is gathered, and whether that is inside a loop."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "all_gather":
            yield equation.outvars[0].aval.shape, inside
        inner = inside or equation.primitive.name == "scan"
        for value in jax.tree.leaves(
            equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            value = getattr(value, "jaxpr", value)
            if hasattr(value, "eqns"):
                yield from gathers(value, inner)


def check_same(found, expected):
    close = functools.partial(chex.assert_trees_all_close, rtol=2e-4, atol=2e-6)
    close(found[0], expected[0])
    close(found[1], expected[1])


def test_steps_are_those_of_replicated_state():
    *found, program, partition = steps_of("full")
    check_same(found, steps_of("none"))
    kernel = partition.grad_specs(found[0].params)["backbone"]["stack"]["kernel"]
    assert kernel[0] is None and "fsdp" in kernel
    head, block = (WIDTH, 4), (WIDTH, WIDTH)
    assert set(gathers(program.jaxpr)) == {(head, False), (block, True)}


@pytest.mark.slow
def test_halves_need_whole_gradients_and_gather_before_the_loop():
    *found, program, _ = steps_of("full", estimator="halves")
    check_same(found, steps_of("none", estimator="halves"))
    assert ((COUNT, WIDTH, WIDTH), False) in set(gathers(program.jaxpr))
