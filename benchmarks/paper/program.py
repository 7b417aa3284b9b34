"""What is compiled for a cell: optimizer, train step, detector, from a config.

Compiling takes longer than some cells, so rate, seed and the control's factors are
arguments of the program, and it trains every cell that differs in them alone.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

from agvm_jax.optim.modules import label_tree, module_names
from agvm_jax.optim.noise import noise_init
from agvm_jax.training import mesh as mesh_lib
from agvm_jax.training.batching import BatchPlan, plan_batches
from agvm_jax.training.predicting import make_predict
from agvm_jax.training.recipes import Recipe, build_optimizer
from agvm_jax.training.state import TrainState, create_state
from agvm_jax.training.step import TrainStep
from benchmarks.paper.cells import Cell
from benchmarks.paper.methods import Method
from benchmarks.paper.scales import WARMUP_SHARE, Scale
from models.build import build_detector
from models.stack import has_layer_axis


class CarriedState(NamedTuple):
    """State of `carry_rate`."""

    inner: Any
    rate: jax.Array  # () float32
    factors: dict[str, jax.Array]  # of each module


def carry_rate(
    inner: optax.GradientTransformation, labels: Any
) -> optax.GradientTransformationExtraArgs:
    """Multiply an optimizer's updates by a rate and by factors kept in its state.

    With `inner` at a peak rate of 1 it is `inner` at that rate, for every optimizer
    whose update is proportional to the rate.
    """
    inner = optax.with_extra_args_support(inner)

    def init(params):
        one = jnp.ones([], jnp.float32)
        return CarriedState(
            inner.init(params), one, dict.fromkeys(module_names(labels), one)
        )

    def update(updates, state, params=None, **extra):
        updates, new = inner.update(updates, state.inner, params, **extra)
        updates = jax.tree.map(
            lambda u, label: u * (state.rate * state.factors[label]), updates, labels
        )
        return updates, state._replace(inner=new)

    return optax.GradientTransformationExtraArgs(init, update)


@dataclasses.dataclass(frozen=True)
class Program:
    """What is compiled once and trains many cells."""

    recipe: Recipe
    plan: BatchPlan
    steps: int
    step: TrainStep
    init: Callable
    predict: Callable
    settle: Callable  # (params, model_state, batch) -> model_state, averages moved on
    mesh: jax.sharding.Mesh
    labels: Any

    def initial_state(
        self, cell: Cell, method: Method, factors: Mapping[str, float] | None
    ) -> TrainState:
        """Return the state before the first step, with the cell's rate and factors."""
        params, model_state = self.init(jax.random.key(cell.seed))
        opt_state = self.recipe.tx.init(params)
        names = module_names(self.labels)
        fixed = dict.fromkeys(names, 1.0) | dict(factors or {})
        opt_state = opt_state._replace(
            rate=jnp.float32(cell.rate if method.linear else 1.0),
            factors={name: jnp.float32(fixed[name]) for name in names},
        )
        state = create_state(
            params, model_state, opt_state, noise_init(names), cell.seed
        )
        return mesh_lib.put_replicated(self.mesh, state)


def build_program(scale: Scale, cell: Cell, method: Method) -> Program:
    """Return the program of a cell; nothing is compiled yet."""
    steps = scale.steps(cell.batch, cell.options)
    changes = {
        **method.changes,
        "optim.lr": 1.0 if method.linear else cell.rate,
        "optim.warmup_steps": round(WARMUP_SHARE * scale.steps(cell.batch)),
        **dict(cell.settings),
    }
    config = scale.config(cell.batch, changes, cell.options)
    recipe = build_optimizer(
        config.optim,
        config.agvm,
        batch_size=cell.batch,
        total_steps=steps,
        steps_per_epoch=steps,
        layered=has_layer_axis,
    )
    if method.make_tx:
        tx = optax.with_extra_args_support(method.make_tx(recipe.schedule))
        recipe = dataclasses.replace(recipe, tx=tx)
    mesh = mesh_lib.data_mesh(jax.devices()[:1])
    plan = plan_batches(
        cell.batch,
        mesh.size,
        config.micro_batch_size,
        estimator=recipe.agvm.estimator if recipe.agvm else None,
    )
    detector = build_detector(
        config.model,
        num_classes=len(scale.class_names),
        image_size=config.image_size,
        axis_name=mesh_lib.DATA_AXIS,
    )
    params, _ = jax.eval_shape(detector.init, jax.random.key(0))
    labels = label_tree(params)

    def settle(params, model_state, batch):
        return detector.loss(params, model_state, batch, jax.random.key(0))[1][0]

    recipe = dataclasses.replace(recipe, tx=carry_rate(recipe.tx, labels))
    return Program(
        recipe=recipe,
        plan=plan,
        steps=steps,
        step=TrainStep(detector.loss, recipe, plan, mesh, labels),
        init=detector.init,
        predict=make_predict(detector.predict, mesh),
        settle=jax.jit(
            jax.shard_map(
                settle,
                mesh=mesh,
                in_specs=(P(), P(), P(mesh_lib.DATA_AXIS)),
                out_specs=P(),
                check_vma=False,
            )
        ),
        mesh=mesh,
        labels=labels,
    )
