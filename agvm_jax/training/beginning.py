"""What a sitting begins with, and whether anything is left to do."""

import logging

import jax

from agvm_jax.training import mesh as mesh_lib
from agvm_jax.training import metrics as metrics_lib
from agvm_jax.training.experiment import Experiment
from agvm_jax.training.restoring import Restored, restore_newest, saved_steps
from agvm_jax.training.standing import gains_no_more
from agvm_jax.training.start_from import restore_source


def first_state(experiment: Experiment, log: logging.Logger) -> Restored:
    """Returns what a sitting begins with: the newest good checkpoint, or step 0."""
    folder, begin = experiment.folder / "checkpoints", experiment.start
    own = bool(saved_steps(folder))
    if not own and begin.source is None:
        return Restored(begin.state(), 0, {})
    # Only the shapes are made of a state that is restored: there are never two.
    shapes = jax.eval_shape(begin.state)
    like = experiment.model.partition.like(shapes)
    if not own:
        return restore_source(begin.source, like, begin.seed, log)
    restored = restore_newest(folder, like, log)
    log.info(
        "resumed from the checkpoint of step %d of %d",
        restored.step,
        experiment.resolved.total_steps,
    )
    return restored


def has_ended(experiment: Experiment, begin: Restored) -> bool:
    """Whether a run that begins with this state has nothing left to do."""
    patience = experiment.settings.stop_after_evaluations_without_gain
    done = begin.step >= experiment.resolved.total_steps
    if done or not patience:
        return done
    metric = experiment.evaluation.task.metric
    values = metrics_lib.evaluated(experiment.folder, metric, begin.step)
    early = begin.step in values and gains_no_more(values, patience)
    # What makes the state may be a program over all processes, and two of these at a
    # time may wait for each other.
    jax.block_until_ready(begin.state)
    return mesh_lib.first_process_says(early)
