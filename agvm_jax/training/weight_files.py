"""Weights that a run leaves beside its checkpoints, for everything but going on.

A checkpoint holds the whole state in Orbax's layout; these files hold what is used.
"""

import logging
from collections.abc import Callable

import jax

from agvm_jax.run_files import BEST, LAST
from agvm_jax.training import storage
from agvm_jax.training.experiment import Experiment
from agvm_jax.training.state import TrainState


def write_last(experiment: Experiment, state: TrainState, log: logging.Logger) -> None:
    """Writes the weights that a sitting ends with, however it ends."""
    if any(leaf.is_deleted() for leaf in jax.tree.leaves(state)):
        return  # the step that failed took the state with it
    try:
        step = str(int(state.step))
    except jax.errors.JaxRuntimeError:
        return
    _write(experiment, log, lambda write: write(LAST, state, {"step": step}))


def write_best(
    experiment: Experiment,
    state: TrainState,
    step: int,
    value: float,
    log: logging.Logger,
) -> None:
    """Writes weights that were just found to be the best so far.

    Args:
      experiment: the run.
      state: what was evaluated.
      step: its step.
      value: the task's metric.
      log: where it is told if the disk does not take them.
    """
    metric = experiment.evaluation.task.metric
    notes = {"step": str(step), metric: f"{value:.6g}"}
    _write(experiment, log, lambda write: write(BEST, state, notes))


def _write(
    experiment: Experiment, log: logging.Logger, job: Callable[[Callable], None]
) -> None:
    if jax.process_index() != 0:
        return
    try:
        job(experiment.model.write_weights)
    except jax.errors.JaxRuntimeError:
        pass  # the device failed, which has been raised already
    except OSError as error:
        words = storage.in_words(error, experiment.folder)
        log.error("the weights could not be written: %s", words)
