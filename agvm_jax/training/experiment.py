"""What the loop works with, in five parts, and what it returns."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from agvm_jax.training.partition import Partition
from agvm_jax.training.resolve import Resolved
from agvm_jax.training.start_from import Source
from agvm_jax.training.state import TrainState
from agvm_jax.training.step import TrainStep


@dataclasses.dataclass(frozen=True)
class Data:
    """Where batches come from.

    Attributes:
      dataset: what they are made of, for reports; the loop does not look at it.
      train: ``(first) -> iterator`` of this process's host batches from the pass with
        that number on, with ``close()`` and ``counters``.
      validation: ``(some) -> iterable`` of this process's validation batches: all of
        the split, or that many images spread evenly over it, of all processes together.
        Every process gets as many batches.
    """

    dataset: Any
    train: Callable[[int], Iterator[Any]]
    validation: Callable[..., Iterable[Any]]


@dataclasses.dataclass(frozen=True)
class Model:
    """What is trained, on its devices.

    Attributes:
      partition: where the state lies, and on which mesh.
      step: the compiled train step.
      predict: ``(state, host batch) -> Predictions`` of the same rows.
      write_weights: ``(name, state, notes)``, leaves the weights in the run folder
        under that name, with notes for people; called by the first process.
    """

    partition: Partition
    step: TrainStep
    predict: Callable[[TrainState, Any], Any]
    write_weights: Callable[[str, TrainState, dict[str, str]], None]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How it is judged.

    Attributes:
      task: what is measured; its ``metric`` names the number that ranks checkpoints.
      evaluator: what `run` fills; it can tell more after it.
      run: ``(state) -> dict`` of the numbers by their names.
    """

    task: Any
    evaluator: Any
    run: Callable[[TrainState], dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Start:
    """Where a run begins that has no checkpoint of its own yet.

    Attributes:
      state: ``() -> TrainState`` before the first step, laid out on the mesh.
      source: the checkpoint of another run that it starts from instead, or None.
      seed: what the random key of the run is made from.
    """

    state: Callable[[], TrainState]
    source: Source | None
    seed: int


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that the loop works with; ``experiment.py`` builds it from a config.

    Attributes:
      folder: the run folder.
      settings: the config's ``train`` section.
      resolved: the numbers that follow from the config: steps, shares of a batch, rate.
      data: where batches come from.
      model: what is trained.
      evaluation: how it is judged.
      start: where it begins.
    """

    folder: Path
    settings: Any
    resolved: Resolved
    data: Data
    model: Model
    evaluation: Evaluation
    start: Start


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
