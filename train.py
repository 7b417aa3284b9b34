"""Trains a detector: python train.py --config configs/quickstart.py

Any key of configs/base.py can be set on the command line, for example
--config.batch_size=64. The same command again goes on where it stopped.

Exit codes: 0 finished; 75 stopped by a signal and saved, start it again; 3 stopped
because the loss was not finite; 2 something in the input was wrong, and one sentence
says what; 1 a crash.
"""

import math
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # keep start-up quiet

import jax
from ml_collections import ConfigDict

from agvm_jax.data.dataset import Dataset, open_dataset
from agvm_jax.data.errors import DataError
from agvm_jax.data.pipeline import eval_batches, train_batches
from agvm_jax.data.settings import check_settings
from agvm_jax.evaluation.evaluator import evaluate
from agvm_jax.evaluation.input_size import evaluation_size
from agvm_jax.evaluation.reports.pictures import write_pictures
from agvm_jax.evaluation.reports.run import write_run_report
from agvm_jax.evaluation.tasks import Settings, choose_task
from agvm_jax.optim.modules import label_tree, module_names
from agvm_jax.optim.noise import noise_init, useful_batch_sentence
from agvm_jax.training import mesh as mesh_lib
from agvm_jax.training.batching import plan_batches
from agvm_jax.training.command_line import complain, join, leave, parse
from agvm_jax.training.device_memory import OutOfDeviceMemory
from agvm_jax.training.examples import predicted_examples
from agvm_jax.training.exit_code import ExitCode
from agvm_jax.training.experiment import Experiment, Outcome
from agvm_jax.training.host_memory import keep_freed_memory
from agvm_jax.training.loop import train_and_evaluate
from agvm_jax.training.metrics import open_log, typical_noise_scales
from agvm_jax.training.recipes import build_optimizer
from agvm_jax.training.restoring import (
    CheckpointMismatch,
    NoGoodCheckpoint,
    saved_steps,
)
from agvm_jax.training.run_folder import open_run_folder
from agvm_jax.training.start_from import find_source
from agvm_jax.training.state import create_state
from agvm_jax.training.step import TrainStep, make_predict
from agvm_jax.training.storage import StorageError
from agvm_jax.training.watch import TrainingStopped
from models.build import build_detector
from models.ops.forms import forms_for
from models.weights.files import write_weights
from models.weights.load import load_initial_weights
from models.weights.placing import flatten

# What detectors give, where it is more than boxes; from it follows what is measured.
OUTPUTS = {"mask_rcnn": {"boxes", "masks"}}

INPUT_ERRORS = DataError, CheckpointMismatch, NoGoodCheckpoint, OutOfDeviceMemory


def main(arguments: list[str]) -> int:
    """Reads the command line, trains, reports. Returns the exit code."""
    try:
        config = parse(arguments)
        join()
        dataset = open_dataset(config.data)
        experiment = build(config, dataset)
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
    finish(config, dataset, experiment, outcome)
    return leave(ExitCode.FINISHED)


def build(config: ConfigDict, dataset: Dataset) -> Experiment:
    """Turns a config into everything that the loop works with, and says what it chose.

    What depends on other keys is derived here, after every override: steps from epochs,
    the learning rate from the batch size, micro-batches from the devices.

    Raises:
      ValueError: something in the config does not fit together.
    """
    mesh = mesh_lib.data_mesh()
    # As the paper counts: an epoch ends with the batch that holds its last image.
    steps_per_epoch = math.ceil(len(dataset.train) / config.batch_size)
    total_steps = config.steps or math.ceil(config.epochs * steps_per_epoch)
    recipe = build_optimizer(
        config.optim,
        config.agvm,
        batch_size=config.batch_size,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
    )
    if recipe.required_norm not in (None, config.model.norm):
        raise ValueError(
            f"optim.name={config.optim.name} is defined with {recipe.required_norm}"
            f" BatchNorm and the config has model.norm={config.model.norm}: use"
            f" --config.model.norm={recipe.required_norm}."
        )
    plan = plan_batches(
        config.batch_size,
        mesh.size,
        config.micro_batch_size,
        estimator=recipe.agvm.estimator if recipe.agvm else None,
    )
    task = choose_task(OUTPUTS.get(config.model.detector, {"boxes"}))
    task.check_data(config.data, config.model.detector)
    check_settings(config.data, config.image_size, plan.images_per_pass)
    evaluated = evaluation_size(config)
    check_settings(evaluated.data_config, evaluated.image_size, plan.images_per_pass)
    model_config = config.model.copy_and_resolve_references()
    platform = mesh.devices.flat[0].platform
    if model_config.dtype == "auto":
        # CPUs only emulate bfloat16, several times slower than float32.
        model_config.dtype = "float32" if platform == "cpu" else "bfloat16"
    if model_config.op_forms == "auto":
        model_config.op_forms = forms_for(platform)
    freeze_at = decide_freezing(config)
    detector = build_detector(
        model_config,
        num_classes=len(dataset.class_names),
        image_size=config.image_size,
        axis_name=mesh_lib.DATA_AXIS,
        freeze_at=freeze_at,
    )
    shapes = jax.eval_shape(detector.init, jax.random.key(config.seed))
    params, _ = shapes
    labels = label_tree(params)
    jax.eval_shape(recipe.tx.init, params)  # so that its errors are said now
    folder = Path(config.workdir or Path("runs") / config.name / str(config.seed))
    weights = None
    if config.train.skip_steps < 0:
        raise ValueError(
            f"train.skip_steps={config.train.skip_steps} must be 0 or more: the steps"
            " whose batches are left out."
        )
    source = None
    goes_on = bool(saved_steps(folder / "checkpoints"))
    if config.train.start_from and not goes_on:
        source = find_source(config.train.start_from, total_steps)
    # A run that goes on, or starts from another, has the weights of a checkpoint.
    if config.train.init_from and not goes_on and not source:
        weights = load_initial_weights(
            config.train.init_from,
            config.train.init_what,
            config.train.weights_dir,
            *shapes,
        )
    open_run_folder(folder, config.to_dict())
    introduce(
        **{
            "data": "\n".join(dataset.report),
            "model": f"{config.model.detector} {config.model.backbone},"
            f" {sum(math.prod(p.shape) for p in jax.tree.leaves(params)) / 1e6:.2f} M"
            f" parameters, {config.image_size[0]} x {config.image_size[1]} px, computed"
            f" in {model_config.dtype}",
            **({"weights": weights.report} if weights else {}),
            **({"starts from": str(source)} if source else {}),
            **({"frozen": name_parts(freeze_at)} if freeze_at else {}),
            "evaluation": f"at {evaluated}",
            "steps": f"{total_steps}, {steps_per_epoch} an epoch; {plan}",
            "optimizer": "\n".join(recipe.reasons),
            "run folder": str(folder),
        }
    )

    processes = {
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }
    predict_on_mesh = make_predict(detector.predict, mesh)
    judged = Settings(
        semantic=config.data.semantic,
        max_detections=config.eval.max_detections,
        save_to=folder / "eval" / "found",
    )
    evaluator = task.evaluator(dataset, judged)

    def initial_state():
        params, model_state = detector.init(jax.random.key(config.seed))
        if weights:
            params, model_state = weights.put_into(params, model_state)
        opt_state = recipe.tx.init(params)
        noise = noise_init(module_names(labels))
        state = create_state(params, model_state, opt_state, noise, config.seed)
        return mesh_lib.put_replicated(mesh, state)

    def stream(first):
        return train_batches(
            dataset.train,
            image_size=config.image_size,
            batch_size=plan.images_per_pass,
            seed=config.seed,
            data_config=config.data,
            start_batch=first + config.train.skip_steps * plan.micro_batches,
            **processes,
        )

    def validation():
        return eval_batches(
            dataset.val,
            batch_size=config.eval.batch_size * mesh.size,
            **evaluated._asdict(),
            **processes,
        )

    def predict(state, batch):
        on_mesh = mesh_lib.put_batch(mesh, batch)
        predictions = predict_on_mesh(state.params, state.model_state, on_mesh)
        return mesh_lib.local_rows(predictions)

    def write_npz(state):
        # What another run may start from: --config.train.init_from=FOLDER/weights.npz.
        write_weights(folder / "weights.npz", flatten(state.params, state.model_state))

    def evaluate_state(state):
        return evaluate(lambda batch: predict(state, batch), validation(), evaluator)

    return Experiment(
        folder=folder,
        mesh=mesh,
        plan=plan,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        initial_state=initial_state,
        source=source,
        seed=config.seed,
        step=TrainStep(detector.loss, recipe, plan, mesh, labels, len(dataset.train)),
        schedule=recipe.schedule,
        train_batches=stream,
        eval_batches=validation,
        predict=predict,
        task=task,
        evaluate=evaluate_state,
        evaluator=evaluator,
        write_weights=write_npz,
        settings=config.train,
    )


def decide_freezing(config: ConfigDict) -> int:
    """Returns how many parts of the backbone stay as they were loaded.

    By default what torchvision, detectron2 and the released code of AGVM do: a ResNet
    that starts from a file keeps its stem and first stage, a Swin learns everywhere.

    Raises:
      ValueError: random weights would be frozen.
    """
    chosen, source = config.train.freeze_at, config.train.init_from
    if chosen < 0:
        return 2 if source and config.model.backbone.startswith("resnet") else 0
    if chosen and not source:
        raise ValueError(
            f"train.freeze_at={chosen} would keep the random weights that the backbone"
            " starts from: say where trained ones are with --config.train.init_from,"
            " or use --config.train.freeze_at=0."
        )
    return chosen


def name_parts(freeze_at: int) -> str:
    """Names the frozen parts of the backbone."""
    parts = ("stem", "stage 1", "stage 2", "stage 3", "stage 4")
    return f"backbone's {', '.join(parts[:freeze_at])} (train.freeze_at={freeze_at})"


def introduce(**facts: str) -> None:
    """Prints what was derived from the config, so that nobody has to guess it."""
    if jax.process_index() == 0:
        for name, fact in facts.items():
            print(f"{name:<12}" + fact.replace("\n", "\n" + " " * 12))
        sys.stdout.flush()


def finish(
    config: ConfigDict, dataset: Dataset, experiment: Experiment, outcome: Outcome
) -> None:
    """Writes the report of a finished run. All processes call it; the first writes."""
    examples = predicted_examples(experiment, outcome.state, config.eval.draw_images)
    if jax.process_index() != 0:
        return
    log = open_log(experiment.folder, active=True)
    if outcome.status == "was finished":
        log.info(
            "\nthis run was finished before, at step %d; this is its evaluation."
            " For another run: --config.seed=N or --config.name=NAME",
            outcome.step,
        )
    semantic = config.data.semantic
    write_pictures(
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
        task=experiment.task,
        evaluator=experiment.evaluator,
        load_image=dataset.val.image,
        notes=[useful_batch_sentence(scales, config.batch_size)] if scales else [],
        log=log,
    )


if __name__ == "__main__":
    keep_freed_memory()  # for runs on a CPU
    sys.exit(main(sys.argv))
