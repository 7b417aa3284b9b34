"""Trains one cell, with the train step, optimizer, detector and evaluator of train.py.

What is left out is what a run of a minute does not need: checkpoints, augmentation,
logging to files as it goes.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from agvm_jax.evaluation.detection import DetectionEvaluator
from agvm_jax.evaluation.evaluator import evaluate
from agvm_jax.optim.noise import noise_scale
from agvm_jax.structures import Batch
from agvm_jax.training import mesh as mesh_lib
from agvm_jax.training.state import TrainState
from benchmarks.paper.cells import Cell
from benchmarks.paper.curves import gather, summary, windows
from benchmarks.paper.images import Pool, order
from benchmarks.paper.methods import Method
from benchmarks.paper.program import Program, build_program
from benchmarks.paper.scales import Scale

EVAL_BATCH = 100
MAX_SKIPPED = 10  # steps in a row that are not finite, then the run stops
SETTLING = 32  # micro-batches from which BatchNorm's averages are gathered anew
AVERAGE = 8  # the larger, the shorter the memory of the averaged weights: steps / 8


class Trainer:
    """Trains cells, one after the other; it keeps the last program.

    Args:
      scale: how large a run is.
      train: the images to train on.
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
        was not finite), what `curves.summary` tells, steps, stopped_at, seconds and
        processor seconds a step, compile_seconds, noise (images, a module), and ap_at:
        images seen -> AP of the averaged weights, if the cell asks for evaluations on
        the way. The curve: one array for each scalar of the train step, and "step".
        """
        started = time.perf_counter()
        program = self._prepare(cell, method)
        state = program.initial_state(cell, method, factors)
        batches = self._batches(program, cell.seed)
        points = evaluation_points(program.steps, cell.options)
        average = (state.params, state.model_state) if points else None
        average = jax.tree.map(jnp.copy, average)  # the step is given the state away
        kept: list[dict[str, float]] = []
        ap_at: dict[str, float] = {}
        seconds: list[np.ndarray] = []
        stopped = None
        for step in range(program.steps):
            before = _clocks()
            state, metrics = program.step(state, batches, step)
            metrics = {k: float(v) for k, v in jax.device_get(metrics).items()}
            if step == 0:
                compiled = time.perf_counter() - started
            seconds.append(_clocks() - before)
            kept.append(metrics)
            if metrics["skipped"] >= MAX_SKIPPED:
                stopped = step
                break
            if not points:
                continue
            average = update_average(
                average, (state.params, state.model_state), jnp.float32(step + 1)
            )
            if step + 1 in points:
                ap = self._evaluate(program, *average)["AP"]
                ap_at[str((step + 1) * cell.batch)] = ap
                if ap >= cell.options.get("run.target", 1.0):
                    break
        curve = gather(kept)
        # The median, since some steps compile.
        clock, processor = np.median(seconds, axis=0)
        result = {
            "AP": None,
            "AP50": None,
            "AP75": None,
            **summary(curve),
            "steps": len(kept),
            "stopped_at": stopped,
            "seconds_a_step": float(clock),
            "processor_a_step": float(processor),
            "compile_seconds": compiled,
            "noise": {k: float(v) for k, v in noise_scale(state.noise).items()},
            "ap_at": ap_at,
        }
        if stopped is None:
            weights = average if points else self._evaluated(program, method, state)
            numbers = self._evaluate(program, *weights)
            result |= {key: numbers[key] for key in ("AP", "AP50", "AP75")}
        result["seconds"] = time.perf_counter() - started
        return result, windows(curve)

    def _prepare(self, cell: Cell, method: Method) -> Program:
        """Return the program of a cell, the last one if it fits."""
        own_rate = None if method.linear else cell.rate
        key = (method.name, cell.batch, cell.variant, own_rate)
        if key != self._key:
            self._program = None  # its memory first
            self._program = build_program(self.scale, cell, method)
            self._key = key
        return self._program

    def _batches(self, program: Program, seed: int) -> Iterator[Batch]:
        size = program.plan.images_per_pass
        rows = order(seed, len(self.train), program.steps * program.plan.batch_size)
        for first in range(0, len(rows), size):
            # In rising order the memory map is read faster; a batch is a set.
            chosen = np.sort(rows[first : first + size])
            yield mesh_lib.put_batch(program.mesh, self.train.batch(chosen))

    def _evaluated(
        self, program: Program, method: Method, state: TrainState
    ) -> tuple[Any, Any]:
        """Return the parameters that are evaluated, and their BatchNorm statistics.

        Those of parameters that no gradient was taken at are gathered first.
        """
        if not method.evaluated:
            return state.params, state.model_state
        inner = state.opt_state.inner
        params, model_state = method.evaluated(inner, state.params), state.model_state
        size = program.plan.images_per_pass
        rows = order(0, len(self.train), min(SETTLING * size, len(self.train)))
        for first in range(0, len(rows) - size + 1, size):
            batch = self.train.batch(np.sort(rows[first : first + size]))
            on_mesh = mesh_lib.put_batch(program.mesh, batch)
            model_state = program.settle(params, model_state, on_mesh)
        return params, model_state

    def _evaluate(
        self, program: Program, params: Any, model_state: Any
    ) -> dict[str, float]:
        def predict(batch):
            on_mesh = mesh_lib.put_batch(program.mesh, batch)
            return program.predict(params, model_state, on_mesh)

        size = min(EVAL_BATCH, len(self.val))
        batches = (
            self.val.batch(np.arange(first, min(first + size, len(self.val))))
            for first in range(0, len(self.val), size)
        )
        return evaluate(predict, batches, self.evaluator)


@jax.jit
def update_average(average: Any, new: Any, count: jax.Array) -> Any:
    """Return the polynomial average of the weights after step `count`, from 1.

    a <- a + (k + 1) / (count + k) (w - a), k = `AVERAGE`: the first weights are
    forgotten as the run goes on, in the same share of it at every batch size.

    References:
      Shamir and Zhang, Stochastic Gradient Descent for Non-smooth Optimization,
      arXiv 1212.1824, section 4.
    """
    share = (AVERAGE + 1) / (count + AVERAGE)
    return jax.tree.map(lambda a, w: a + share * (w - a), average, new)


def evaluation_points(steps: int, options: Mapping[str, Any]) -> set[int]:
    """Return the steps after which averaged weights are evaluated; none by default.

    They lie at equal ratios: "run.evaluations" of them, from a 32nd of the run.

    >>> sorted(evaluation_points(256, {"run.evaluations": 6}))
    [8, 16, 32, 64, 128, 256]
    """
    count = options.get("run.evaluations", 0)
    if not count:
        return set()
    points = np.geomspace(max(steps / 32, 1), steps, count)
    return {int(point) for point in np.round(points)}


def _clocks() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])
