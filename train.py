"""Trains a detector: python train.py --config configs/quickstart.py

Any key of configs/base.py can be set on the command line, for example
--config.batch_size=64. The same command again goes on where it stopped. With
--compile_for=tpu:v5e:16x16 nothing is trained: it says what a step would take there.

Exit codes: 0 finished; 75 stopped by a signal and saved, start it again; 3 stopped
because the loss was not finite; 2 something in the input was wrong, and one sentence
says what; 1 a crash.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # keep start-up quiet

import jax
from ml_collections import ConfigDict

from agvm_jax.data import DataError
from agvm_jax.evaluation.reports.images import write_images
from agvm_jax.evaluation.reports.run import write_run_report
from agvm_jax.optim.noise import useful_batch_sentence
from agvm_jax.training.command_line import (
    complain,
    join,
    leave,
    machine_to_compile_for,
    parse,
)
from agvm_jax.training.device_memory import OutOfDeviceMemory
from agvm_jax.training.exit_code import ExitCode
from agvm_jax.training.experiment import Experiment, Outcome
from agvm_jax.training.host_memory import keep_freed_memory
from agvm_jax.training.loop import train_and_evaluate
from agvm_jax.training.metrics import open_log, typical_noise_scales
from agvm_jax.training.predicting import predicted_examples
from agvm_jax.training.restoring import CheckpointMismatch, NoGoodCheckpoint
from agvm_jax.training.storage import StorageError
from agvm_jax.training.watch import TrainingStopped
from ahead import report_ahead
from experiment import build

INPUT_ERRORS = DataError, CheckpointMismatch, NoGoodCheckpoint, OutOfDeviceMemory


def main(arguments: list[str]) -> int:
    """Reads the command line, trains, reports. Returns the exit code."""
    try:
        config = parse(arguments)
        if machine := machine_to_compile_for():
            report_ahead(config, machine)
            return ExitCode.FINISHED
        join()
        experiment = build(config)
    except ValueError as error:
        return complain(error)
    try:
        outcome = train_and_evaluate(experiment)
    except INPUT_ERRORS as error:
        return complain(error)
    except TrainingStopped as error:
        print(f"training stopped: {error}", file=sys.stderr)
        return leave(ExitCode.DIVERGED)
    except StorageError as error:
        complain(error)
        return ExitCode.CRASHED
    if outcome.status == "interrupted":
        return leave(ExitCode.INTERRUPTED)
    report(config, experiment, outcome)
    return leave(ExitCode.FINISHED)


def report(config: ConfigDict, experiment: Experiment, outcome: Outcome) -> None:
    """Writes the report of a finished run. All processes call it; the first writes."""
    examples = predicted_examples(experiment, outcome.state, config.eval.draw_images)
    if jax.process_index() != 0:
        return
    log = open_log(experiment.folder, active=True)
    if outcome.status == "was finished":
        log.info(
            "\nthis run was finished before, at step %d; this is its evaluation."
            " For another run: %s",
            outcome.step,
            "--config.workdir=FOLDER"
            if config.workdir
            else "--config.seed=N or --config.name=NAME",
        )
    dataset, semantic = experiment.data.dataset, config.data.semantic
    write_images(
        experiment.folder,
        outcome.step,
        examples,
        dataset.class_names,
        config.eval.draw_images,
        () if semantic == "none" else dataset.label_names(semantic),
    )
    scales = typical_noise_scales(experiment.folder)
    write_run_report(
        experiment.folder,
        step=outcome.step,
        task=experiment.evaluation.task,
        evaluator=experiment.evaluation.evaluator,
        load_image=dataset.val.image,
        notes=[useful_batch_sentence(scales, config.batch_size)] if scales else [],
        log=log,
    )


if __name__ == "__main__":
    keep_freed_memory()  # for runs on a CPU
    sys.exit(main(sys.argv))
