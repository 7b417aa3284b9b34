"""What the loop works with, and what it returns."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from agvm_jax.training.batching import BatchPlan
from agvm_jax.training.start_from import Source
from agvm_jax.training.state import TrainState
from agvm_jax.training.step import TrainStep


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that the loop works with; ``train.py`` builds it from a config.

    Attributes:
      folder: the run folder.
      mesh: the data mesh.
      plan: how a batch is shared out.
      total_steps: optimizer steps in the run.
      steps_per_epoch: steps that show every image once, possibly a fraction.
      initial_state: ``() -> TrainState``, replicated over the mesh.
      source: the checkpoint of another run that this one starts from, or None.
      seed: what the random key of the run is made from.
      step: the compiled train step.
      schedule: step -> learning rate, on the host.
      train_batches: ``(first) -> iterator`` of this process's host batches from the
        pass with that number on, with ``close()`` and ``counters``.
      eval_batches: ``() -> iterable`` of this process's validation batches.
      predict: ``(state, host batch) -> Predictions`` of the same rows.
      task: what is measured; its ``metric`` names the number that ranks checkpoints.
      evaluate: ``(state) -> dict`` of the evaluation's numbers by their names.
      evaluator: what `evaluate` fills; it can tell more after it.
      write_weights: ``(state)``, leaves the weights in the run folder; called by the
        first process when a sitting ends, for whatever reason.
      settings: the config's ``train`` section.
    """

    folder: Path
    mesh: jax.sharding.Mesh
    plan: BatchPlan
    total_steps: int
    steps_per_epoch: float
    initial_state: Callable[[], TrainState]
    source: Source | None
    seed: int
    step: TrainStep
    schedule: Callable[[int], Any]
    train_batches: Callable[[int], Iterator[Any]]
    eval_batches: Callable[[], Any]
    predict: Callable[[TrainState, Any], Any]
    task: Any
    evaluate: Callable[[TrainState], dict[str, float]]
    evaluator: Any
    write_weights: Callable[[TrainState], None]
    settings: Any


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a sitting ended.

    Attributes:
      state: the state after the last step.
      step: that step's number.
      results: the last evaluation's numbers, or {} when interrupted before any.
      status: "finished" now, "was finished" already, or "interrupted" by a signal.
    """

    state: TrainState
    step: int
    results: dict[str, float]
    status: str
