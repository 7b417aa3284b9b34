"""What is measured: detection, instance, semantic or panoptic segmentation.

Whoever trains, saves, plots and reports asks a `Task` and knows no metric by name. To
add a task, add a line to `TASKS`.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from agvm_jax.evaluation.detection import DetectionEvaluator
from agvm_jax.evaluation.evaluator import Evaluator
from agvm_jax.evaluation.instance import InstanceEvaluator
from agvm_jax.evaluation.metrics.panoptic_merge import MergeRule
from agvm_jax.evaluation.panoptic import PanopticEvaluator
from agvm_jax.evaluation.reports.detection import write_detection_report
from agvm_jax.evaluation.reports.segmentation import (
    write_panoptic_report,
    write_semantic_report,
)
from agvm_jax.evaluation.semantic import SemanticEvaluator


class PanopticTruth(Protocol):
    """Panoptic ground truth: COCO's dictionary and the maps that belong to it."""

    content: Mapping[str, Any]

    def load(self, file_name: str) -> np.ndarray: ...

    def label_categories(self, semantic: str) -> Sequence[int | None]: ...


class Split(Protocol):
    """What is asked of the split that is evaluated: see `data.records.Source`."""

    index_of: Mapping[int, int]  # image id -> where it stands

    def ground_truth(self) -> Mapping[str, Any]: ...

    def labels(self, image_id: int, semantic: str) -> np.ndarray: ...

    def panoptic_truth(self) -> PanopticTruth: ...


class DataSet(Protocol):
    """What is asked of a data set: see `data.dataset.Dataset`."""

    class_names: Sequence[str]
    category_ids: Sequence[int]
    val: Split

    def label_names(self, semantic: str) -> Sequence[str]: ...


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a config says of an evaluation.

    Attributes:
      semantic: data.semantic, what the labels of pixels are: none, stuff or all.
      max_detections: eval.max_detections, as `DetectionEvaluator` takes it.
      merge: eval.panoptic, how instances and stuff become one map.
      save_to: a folder for maps that are found, to be drawn later; None: none are kept.
    """

    semantic: str = "none"
    max_detections: tuple[int, ...] = ()
    merge: MergeRule = MergeRule()
    save_to: Path | None = None


@dataclasses.dataclass(frozen=True)
class Need:
    """Something that the data carry only when a key of config.data asks for it.

    Attributes:
      key: of config.data.
      lacking: the value with which it is not there.
      reason: what a detector does that needs it.
      remedy: values to use, in words.
    """

    key: str
    lacking: Any
    reason: str
    remedy: str


MASKS = Need("mask_size", 0, "learns from masks", "56, twice the head's 28")
LABELS = Need(
    "semantic", "none", "learns a class for each pixel",
    "all, or stuff, which makes one class of all things",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Task:
    """How predictions are judged.

    Attributes:
      name: "detection", "instance", "semantic" or "panoptic".
      outputs: what a detector of this task gives, of "boxes", "masks", "semantic".
      metric: the number of the evaluator's `compute` that ranks checkpoints, the larger
        the better; a fraction.
      curves: the numbers that are plotted over a run, `metric` among them.
      needs: what the data must carry.
      evaluator: (data set, settings) -> an evaluator of its validation split.
      reports: (evaluator, folder, load_image) -> the files that it wrote there;
        `load_image` maps an image id to (H, W, 3) uint8 RGB.
    """

    name: str
    outputs: frozenset[str]
    metric: str
    curves: tuple[str, ...]
    needs: tuple[Need, ...]
    evaluator: Callable[[DataSet, Settings], Evaluator]
    reports: Callable[[Any, Path, Callable[[int], np.ndarray]], list[Path]]

    def check_data(self, data_config: Any, detector: str) -> None:
        """Check that the data will carry what is needed.

        Args:
          data_config: section `data` of the config.
          detector: its name, for the message.

        Raises:
          ValueError: they will not; one sentence says which key to set.
        """
        for need in self.needs:
            if getattr(data_config, need.key) == need.lacking:
                raise ValueError(
                    f"model.detector={detector} {need.reason} and the config has"
                    f" data.{need.key}={need.lacking}: use"
                    f" --config.data.{need.key}={need.remedy}."
                )


def _judge_boxes(dataset: DataSet, settings: Settings) -> DetectionEvaluator:
    return DetectionEvaluator(*_objects(dataset, settings))


def _judge_masks(dataset: DataSet, settings: Settings) -> InstanceEvaluator:
    return InstanceEvaluator(*_objects(dataset, settings))


def _objects(dataset: DataSet, settings: Settings) -> tuple:
    truth = dataset.val.ground_truth()
    most = settings.max_detections
    return truth, dataset.category_ids, dataset.class_names, most


def _judge_labels(dataset: DataSet, settings: Settings) -> SemanticEvaluator:
    return SemanticEvaluator(
        dataset.label_names(settings.semantic),
        dataset.val.index_of,
        lambda image_id: dataset.val.labels(image_id, settings.semantic),
        settings.save_to,
    )


def _judge_panoptic(dataset: DataSet, settings: Settings) -> PanopticEvaluator:
    truth = dataset.val.panoptic_truth()
    return PanopticEvaluator(
        truth.content,
        truth.load,
        dataset.category_ids,
        truth.label_categories(settings.semantic),
        settings.merge,
        settings.save_to,
    )


BOX_CURVES = ("AP", "AP50", "AP75")
TASKS = {
    task.name: task
    for task in (
        Task(
            "detection", frozenset({"boxes"}),
            "AP", BOX_CURVES, (), _judge_boxes, write_detection_report,
        ),
        Task(
            "instance", frozenset({"boxes", "masks"}),
            "mask_AP", (*BOX_CURVES, "mask_AP", "mask_AP50"), (MASKS,),
            _judge_masks, write_detection_report,
        ),
        Task(
            "semantic", frozenset({"semantic"}),
            "mIoU", ("mIoU", "mean_accuracy", "pixel_accuracy"), (LABELS,),
            _judge_labels, write_semantic_report,
        ),
        Task(
            "panoptic", frozenset({"boxes", "masks", "semantic"}),
            "PQ", ("PQ", "PQ_things", "PQ_stuff", "SQ", "RQ"), (MASKS, LABELS),
            _judge_panoptic, write_panoptic_report,
        ),
    )
}  # fmt: skip


def choose_task(outputs: Collection[str]) -> Task:
    """Return the task of a detector that gives just these outputs.

    Args:
      outputs: of "boxes", "masks", "semantic".

    Raises:
      ValueError: no task is about them.
    """
    for task in TASKS.values():
        if task.outputs == frozenset(outputs):
            return task
    known = "; ".join(
        f"{task.name}: {', '.join(sorted(task.outputs))}" for task in TASKS.values()
    )
    raise ValueError(
        f"a detector that gives {', '.join(sorted(outputs)) or 'nothing'} has no task:"
        f" {known}"
    )
