"""From a config to an experiment: data set, detector, optimizer, evaluation, folder.

This file and `trained`, whose `load` it hands on, know both wings, data and models.
"""

import dataclasses
import math
from pathlib import Path

import jax
from ml_collections import ConfigDict

from agvm_jax.data import Dataset, eval_batches, open_dataset, train_batches
from agvm_jax.data.example import check_config
from agvm_jax.data.pipeline import check_settings
from agvm_jax.evaluation.evaluator import evaluate
from agvm_jax.evaluation.metrics.panoptic_merge import MergeRule
from agvm_jax.evaluation.tasks import Settings, Task, choose_task
from agvm_jax.inference.card import write_card
from agvm_jax.training import mesh as mesh_lib
from agvm_jax.training.command_line import introduce
from agvm_jax.training.experiment import Data, Evaluation, Experiment, Model, Start
from agvm_jax.training.partition import Partition
from agvm_jax.training.predicting import make_predict
from agvm_jax.training.resolve import Resolved, resolve
from agvm_jax.training.restoring import saved_steps
from agvm_jax.training.run_folder import folder_of, open_run_folder
from agvm_jax.training.start_from import find_source
from agvm_jax.training.state import TrainState
from agvm_jax.training.step import TrainStep
from agvm_jax.training.trackers import tracker_names
from models.stack import has_layer_axis
from models.weights.files import write_weights
from models.weights.load import load_initial_weights
from models.weights.placing import flatten
from planned import plan_training
from trained import card_of, load, num_labels_of, with_anchors

__all__ = ["build", "load"]


def build(config: ConfigDict) -> Experiment:
    """Turns a config into everything that the loop works with, and says what it chose.

    Nothing is written before all of it fits together; then the run folder is opened.

    Raises:
      ValueError: something in the config, the data or the run folder does not fit.
    """
    dataset = open_dataset(config.data)
    platform = jax.devices()[0].platform
    resolved = resolve(
        config,
        num_images=len(dataset.train),
        num_devices=jax.device_count(),
        platform=platform,
        host_devices=jax.local_device_count(),
        layered=has_layer_axis,
    )
    judged = Settings(
        semantic=config.data.semantic,
        max_detections=config.eval.max_detections,
        merge=MergeRule(**config.eval.panoptic),
    )
    evaluated = resolved.evaluated
    check_settings(config.data, config.image_size, resolved.plan.images_per_pass)
    check_config(evaluated.data_config, evaluated.image_size)
    tells = jax.process_index() == 0
    config, anchors = with_anchors(config, dataset, evaluated, tell=tells)
    planned = plan_training(
        config,
        resolved,
        jax.devices(),
        platform=platform,
        num_classes=len(dataset.class_names),
        num_labels=num_labels_of(config, dataset),
        num_images=len(dataset.train),
    )
    detector, partition, shapes = planned.detector, planned.partition, planned.shapes
    task = choose_task(detector.outputs)
    task.check_data(config.data, config.model.detector)
    tracker_names(config.train.trackers)  # what is wrong with them is said now
    folder = folder_of(config)
    source, weights = _begins_with(config, resolved, folder, shapes)
    open_run_folder(folder, config.to_dict())
    if jax.process_index() == 0:
        write_card(folder, card_of(config, dataset, evaluated, detector.outputs))
    size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes[0]))
    height, width = config.image_size
    introduce(
        {
            "data": "\n".join(dataset.report),
            "model": f"{config.model.detector} {config.model.backbone},"
            f" {size / 1e6:.2f} M parameters, {height} x {width} px",
            **anchors,
            "weights": weights.report if weights else "",
            "starts from": str(source or ""),
            **resolved.reasons,
            "run folder": str(folder),
        }
    )

    def initial_state() -> TrainState:
        params, model_state = detector.init(jax.random.key(config.seed))
        if weights:
            params, model_state = weights.put_into(params, model_state)
        return partition.put(planned.initial_state(params, model_state))

    data = _data(config, resolved, dataset, partition.mesh)
    model = _model(detector, planned.step, partition, folder)
    return Experiment(
        folder=folder,
        settings=config.train,
        resolved=resolved,
        data=data,
        model=model,
        evaluation=_evaluation(task, judged, data, model, folder),
        start=Start(initial_state, source, config.seed),
    )


def _begins_with(config: ConfigDict, resolved: Resolved, folder: Path, shapes):
    """Returns the checkpoint and the weights that a run begins with, None for none.

    One that goes on has its own checkpoint, and one that starts from another run has
    the weights of that: no file is read then.
    """
    if saved_steps(folder / "checkpoints"):
        return None, None
    settings = config.train
    if settings.start_from:
        return find_source(settings.start_from, resolved.total_steps), None
    if not settings.init_from:
        return None, None
    return None, load_initial_weights(
        settings.init_from, settings.init_what, settings.weights_dir, *shapes
    )


def _data(config: ConfigDict, resolved: Resolved, dataset: Dataset, mesh) -> Data:
    plan = resolved.plan
    processes = {
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }

    def train(first: int):
        return train_batches(
            dataset.train,
            image_size=config.image_size,
            batch_size=plan.images_per_pass,
            seed=config.seed,
            data_config=config.data,
            start_batch=first + config.train.skip_steps * plan.micro_batches,
            **processes,
        )

    def validation(some: int | None = None):
        return eval_batches(
            dataset.val,
            batch_size=config.eval.batch_size * mesh.size,
            some=some,
            **resolved.evaluated._asdict(),
            **processes,
        )

    return Data(dataset, train, validation)


def _model(detector, step: TrainStep, partition: Partition, folder: Path) -> Model:
    mesh = partition.mesh
    predict_on_mesh = make_predict(detector.predict, mesh)

    def predict(state: TrainState, batch):
        on_mesh = mesh_lib.put_batch(mesh, batch)
        predictions = predict_on_mesh(state.params, state.model_state, on_mesh)
        return mesh_lib.local_rows(predictions)

    def write(name: str, state: TrainState, notes: dict[str, str]) -> None:
        tensors = flatten(state.params, state.model_state)
        write_weights(folder / name, tensors, notes)

    return Model(partition, step, predict, write)


def _evaluation(
    task: Task, judged: Settings, data: Data, model: Model, folder: Path
) -> Evaluation:
    judged = dataclasses.replace(judged, save_to=folder / "eval" / "found")
    evaluator = task.evaluator(data.dataset, judged)

    def run(state: TrainState) -> dict[str, float]:
        batches = data.validation()
        return evaluate(lambda batch: model.predict(state, batch), batches, evaluator)

    return Evaluation(task, evaluator, run)
