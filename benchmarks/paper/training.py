"""Trains one cell, with the train step, optimizer, detector and evaluator of train.py.

What is left out is what a run of a minute does not need: checkpoints, augmentation,
logging to files as it goes. Compiling takes longer than some cells, so a `Trainer`
keeps its last program, and rate, seed and the control's factors are arguments of it.
"""

import dataclasses
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from agvm_jax.evaluation.detection import DetectionEvaluator
from agvm_jax.evaluation.evaluator import evaluate
from agvm_jax.optim.modules import label_tree, module_names
from agvm_jax.optim.noise import noise_init, noise_scale
from agvm_jax.optim.recipes import Recipe, build_optimizer
from agvm_jax.structures import Batch
from agvm_jax.training import mesh as mesh_lib
from agvm_jax.training.batching import BatchPlan, plan_batches
from agvm_jax.training.state import TrainState, create_state
from agvm_jax.training.step import TrainStep, make_predict
from benchmarks.paper.cells import Cell
from benchmarks.paper.images import Pool, order
from benchmarks.paper.methods import Method
from benchmarks.paper.scales import WARMUP_SHARE, Scale
from models.build import build_detector

CURVE_POINTS = 128  # rows of a curve; a longer run is averaged over windows
EVAL_BATCH = 100
MAX_SKIPPED = 10  # steps in a row that are not finite, then the run stops


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
    init: Any
    predict: Any
    mesh: Any
    labels: Any


class Trainer:
    """Trains cells, one after the other.

    Args:
      scale: how large a run is.
      train: the pictures to train on.
      val: those to validate on.
    """

    def __init__(self, scale: Scale, train: Pool, val: Pool):
        self.scale, self.train, self.val = scale, train, val
        self.evaluator = DetectionEvaluator(
            val.ground_truth(),
            range(1, len(scale.class_names) + 1),
            scale.class_names,
        )
        self._key, self._program = None, None

    def run(
        self,
        cell: Cell,
        method: Method,
        factors: Mapping[str, float] | None = None,
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Train a cell; return its numbers and its curve.

        Args:
          cell: what to train.
          method: the method that it names.
          factors: module -> fixed factor on its rate; None: 1.

        The numbers: AP, AP50, AP75 (shares; None when the run stopped because its loss
        was not finite), loss (mean over the last tenth of the steps, on fresh images),
        steps, skipped, stopped_at, seconds and processor seconds a step, compile
        seconds, noise (images, a module), mu_mean (over all steps) and mu_max. The
        curve: one array for each scalar of the train step, and "step".
        """
        started = time.perf_counter()
        program = self._prepare(cell, method)
        state = self._initial_state(program, cell, method, factors)
        batches = self._batches(program, cell.seed)
        kept: list[dict[str, float]] = []
        clock = processor = 0.0
        timed = 0
        stopped = None
        for step in range(program.steps):
            before = time.perf_counter(), time.process_time()
            state, metrics = program.step(state, batches)
            metrics = {k: float(v) for k, v in jax.device_get(metrics).items()}
            if step == 0:
                compiled = time.perf_counter() - started
            else:
                clock += time.perf_counter() - before[0]
                processor += time.process_time() - before[1]
                timed += 1
            kept.append(metrics)
            if metrics["skipped"] >= MAX_SKIPPED:
                stopped = step
                break
        curve = {key: np.array([m[key] for m in kept]) for key in kept[0]}
        result = {
            "AP": None,
            "AP50": None,
            "AP75": None,
            **summary(curve),
            "steps": program.steps,
            "stopped_at": stopped,
            "seconds_a_step": clock / max(timed, 1),
            "processor_a_step": processor / max(timed, 1),
            "compile_seconds": compiled,
            "noise": {k: float(v) for k, v in noise_scale(state.noise).items()},
        }
        if stopped is None:
            numbers = self._evaluate(program, state)
            result |= {key: numbers[key] for key in ("AP", "AP50", "AP75")}
        result["seconds"] = time.perf_counter() - started
        return result, windows(curve)

    def _prepare(self, cell: Cell, method: Method) -> Program:
        """Return the program of a cell, the last one if it fits."""
        own_rate = None if method.linear else cell.rate
        key = (method.name, cell.batch, cell.variant, own_rate)
        if key != self._key:
            self._program = None  # its memory first
            self._program = self._build(cell, method)
            self._key = key
        return self._program

    def _build(self, cell: Cell, method: Method) -> Program:
        steps = self.scale.steps(cell.batch)
        changes = {
            **method.changes,
            "optim.lr": 1.0 if method.linear else cell.rate,
            "optim.warmup_steps": round(WARMUP_SHARE * steps),
            **dict(cell.variant),
        }
        config = self.scale.config(cell.batch, changes)
        recipe = build_optimizer(
            config.optim,
            config.agvm,
            batch_size=cell.batch,
            total_steps=steps,
            steps_per_epoch=steps,
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
            num_classes=len(self.scale.class_names),
            image_size=config.image_size,
            axis_name=mesh_lib.DATA_AXIS,
        )
        params, _ = jax.eval_shape(detector.init, jax.random.key(0))
        labels = label_tree(params)
        recipe = dataclasses.replace(recipe, tx=carry_rate(recipe.tx, labels))
        return Program(
            recipe=recipe,
            plan=plan,
            steps=steps,
            step=TrainStep(detector.loss, recipe, plan, mesh, labels),
            init=detector.init,
            predict=make_predict(detector.predict, mesh),
            mesh=mesh,
            labels=labels,
        )

    def _initial_state(
        self,
        program: Program,
        cell: Cell,
        method: Method,
        factors: Mapping[str, float] | None,
    ) -> TrainState:
        params, model_state = program.init(jax.random.key(cell.seed))
        opt_state = program.recipe.tx.init(params)
        names = module_names(program.labels)
        fixed = dict.fromkeys(names, 1.0) | dict(factors or {})
        opt_state = opt_state._replace(
            rate=jnp.float32(cell.rate if method.linear else 1.0),
            factors={name: jnp.float32(fixed[name]) for name in names},
        )
        state = create_state(
            params, model_state, opt_state, noise_init(names), cell.seed
        )
        return mesh_lib.put_replicated(program.mesh, state)

    def _batches(self, program: Program, seed: int) -> Iterator[Batch]:
        size = program.plan.images_per_pass
        rows = order(seed, len(self.train), program.steps * program.plan.batch_size)
        for first in range(0, len(rows), size):
            # In rising order the memory map is read faster; a batch is a set.
            chosen = np.sort(rows[first : first + size])
            yield mesh_lib.put_batch(program.mesh, self.train.batch(chosen))

    def _evaluate(self, program: Program, state: TrainState) -> dict[str, float]:
        def predict(batch):
            on_mesh = mesh_lib.put_batch(program.mesh, batch)
            return program.predict(state.params, state.model_state, on_mesh)

        size = min(EVAL_BATCH, len(self.val))
        batches = (
            self.val.batch(np.arange(first, min(first + size, len(self.val))))
            for first in range(0, len(self.val), size)
        )
        return evaluate(predict, batches, self.evaluator)


def summary(curve: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return loss at the end, steps skipped, and the means of phi and mu."""
    total = len(curve["loss"])
    last = curve["loss"][-max(total // 10, 1) :]
    middle = slice(total // 8, total // 2)  # after warm-up, at the full rate

    def of_modules(prefix: str, reduce) -> dict[str, float]:
        found = {
            key.removeprefix(prefix): curve[key]
            for key in curve
            if key.startswith(prefix)
        }
        return {name: float(reduce(values)) for name, values in found.items()}

    return {
        "loss": float(np.mean(last)),
        "skipped": int(np.sum(curve["finite"] == 0)),
        "phi": of_modules("phi/", lambda values: np.nanmean(values[middle])),
        "mu_mean": of_modules("mu/", np.mean),
        "mu_max": of_modules("mu/", np.max),
    }


def windows(curve: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the curve averaged over windows, at most `CURVE_POINTS` of them."""
    total = len(curve["loss"])
    edges = np.unique(np.linspace(0, total, CURVE_POINTS + 1).astype(int))
    sizes = np.diff(edges)
    averaged = {
        key: np.add.reduceat(values, edges[:-1]) / sizes
        for key, values in curve.items()
    }
    return {"step": edges[1:], **averaged}
