"""Weights that a run leaves beside its checkpoints, for everything but going on.

A checkpoint holds the whole state in Orbax's layout; these files hold what is used.
"""

import dataclasses
import logging

import jax

from agvm_jax.run_files import AVERAGE, BEST, LAST
from agvm_jax.training import mesh as mesh_lib
from agvm_jax.training import storage
from agvm_jax.training.averaging import averaged
from agvm_jax.training.experiment import Experiment
from agvm_jax.training.state import TrainState


def write_last(experiment: Experiment, state: TrainState, log: logging.Logger) -> None:
    """Writes the weights that a sitting ends with, however it ends.

    All processes call this, since each may hold a part; the first writes.
    """
    if any(leaf.is_deleted() for leaf in jax.tree.leaves(state)):
        return  # the step that failed took the state with it
    _write(experiment, LAST, state, {}, log)
    if state.average is not None:
        _write(experiment, AVERAGE, averaged(state), {}, log)


def write_best(
    experiment: Experiment, state: TrainState, value: float, log: logging.Logger
) -> None:
    """Writes weights that were just found to be the best so far.

    Args:
      experiment: the run.
      state: what was evaluated.
      value: the task's metric.
      log: where it is told if the disk does not take them.
    """
    metric = experiment.evaluation.task.metric
    _write(experiment, BEST, state, {metric: f"{value:.6g}"}, log)


def _write(
    experiment: Experiment,
    name: str,
    state: TrainState,
    notes: dict[str, str],
    log: logging.Logger,
) -> None:
    try:
        state = dataclasses.replace(
            state,
            params=mesh_lib.whole(state.params),
            model_state=mesh_lib.whole(state.model_state),
        )
        if jax.process_index() == 0:
            notes = {"step": str(int(state.step))} | notes
            experiment.model.write_weights(name, state, notes)
    except jax.errors.JaxRuntimeError:
        pass  # the step that failed took the state with it
    except OSError as error:
        words = storage.in_words(error, experiment.folder)
        log.error("the weights could not be written: %s", words)
