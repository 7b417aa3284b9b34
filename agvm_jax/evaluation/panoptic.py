"""Panoptic quality over a data set, gathered image by image."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agvm_jax.evaluation.metrics.coco_numbers import percent
from agvm_jax.evaluation.metrics.panoptic_index import index_panoptic
from agvm_jax.evaluation.metrics.panoptic_merge import MergeRule, merge_panoptic
from agvm_jax.evaluation.metrics.panoptic_quality import Tally, match_segments, quality
from agvm_jax.evaluation.metrics.pixel_counts import enlarge_labels
from agvm_jax.evaluation.seen_images import check_new, missing_lines
from agvm_jax.panoptic_png import read_panoptic_png, write_panoptic_png
from agvm_jax.structures import Batch, Predictions

GROUPS = {"": None, "_things": True, "_stuff": False}


class PanopticEvaluator:
    """PQ, SQ and RQ of all classes, of things and of stuff.

    Every image of the ground truth counts: one that was never added counts as an image
    in which nothing was found.

    Args:
      ground_truth: a COCO panoptic dictionary with `images`, `annotations` (image_id,
        file_name, segments_info) and `categories` (id, name, isthing).
      load_truth: an annotation's file name -> its (H, W) map of segment ids, such as
        `lambda name: read_panoptic_png(folder / name)`.
      thing_category_ids: the category id of class 0, 1, ... of `Predictions.classes`.
      label_category_ids: the stuff category id of label 0, 1, ... of
        `Predictions.semantic`; None for a label that is no stuff.
      rule: thresholds by which instances and stuff become one map.
      save_to: a folder for the predicted maps as PNG, written as they come; made if it
        is not there. `annotations` are the JSON that belongs to them.

    Raises:
      ValueError: the ground truth lacks something, or a category id is not in it.
    """

    def __init__(
        self,
        ground_truth: Mapping[str, Any],
        load_truth: Callable[[str], np.ndarray],
        thing_category_ids: Sequence[int],
        label_category_ids: Sequence[int | None],
        rule: MergeRule | None = None,
        save_to: str | os.PathLike[str] | None = None,
    ):
        self.categories, self.truth = index_panoptic(
            ground_truth,
            [*thing_category_ids, *(c for c in label_category_ids if c is not None)],
        )
        # Predictions are called as the truth is, without its folders; where that would
        # give one name to two, by the images' ids.
        names = {i: Path(a["file_name"]).stem + ".png" for i, a in self.truth.items()}
        plain = len(set(names.values())) == len(names)
        self._names = names if plain else {i: f"{i}.png" for i in names}
        self._load_truth = load_truth
        self._thing_ids = tuple(thing_category_ids)
        self._label_ids = tuple(label_category_ids)
        self._rule = rule or MergeRule()
        self._folder = None if save_to is None else Path(save_to)
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
        self.reset()

    def reset(self) -> None:
        """Forget every image; files that were written stay."""
        self._tallies: dict[int, Tally] = {}
        self._annotations: dict[int, dict[str, Any]] = {}

    @property
    def num_images(self) -> int:
        """How many images have been added."""
        return len(self._tallies)

    def add(self, batch: Batch, predictions: Predictions) -> None:
        """Merge each image's instances and labels, and compare; id -1 is skipped.

        Raises:
          ValueError: masks or labels are missing, or what `add_map` raises.
        """
        if predictions.masks is None or predictions.semantic is None:
            raise ValueError("panoptic quality needs masks and semantic predictions")
        padded = np.asarray(batch.image).shape[1:3]
        image_ids = np.asarray(batch.image_id).tolist()
        check_new([i for i in image_ids if i >= 0], self.truth, self._tallies)
        for row, image_id in enumerate(image_ids):
            if image_id < 0:
                continue
            truth = self._truth_map(image_id)
            size = np.asarray(batch.image_size)[row]
            scale = np.array(truth.shape)[[1, 0, 1, 0]] / size[[1, 0, 1, 0]]
            valid = np.asarray(predictions.valid)[row]
            classes = np.asarray(predictions.classes)[row][valid].tolist()
            labels = np.asarray(predictions.semantic)[row]
            found, segments = merge_panoptic(
                np.asarray(predictions.boxes)[row][valid].astype(np.float64) * scale,
                np.asarray(predictions.scores)[row][valid],
                [self._thing_ids[k] for k in classes],
                np.asarray(predictions.masks)[row][valid],
                enlarge_labels(labels, size, padded, truth.shape),
                self._label_ids,
                self._rule,
            )
            self._compare(image_id, truth, found, segments)

    def add_map(
        self, image_id: int, found: np.ndarray, segments: Sequence[Mapping[str, Any]]
    ) -> None:
        """Take a panoptic map of the original image, from any source.

        Args:
          image_id: an image of the ground truth.
          found: (H, W) segment ids, 0 for void.
          segments: id and category_id of each.

        Raises:
          ValueError: the image is unknown or was added before, or map and segments do
            not agree with each other or with the ground truth.
        """
        self._compare(image_id, self._truth_map(image_id), found, segments)

    def compute(self) -> dict[str, float]:
        """Return PQ, SQ, RQ and the same with _things and _stuff.

        Fractions, means over the classes that occur or were predicted; -1 if there are
        none.
        """
        classes = self.per_class()
        numbers = {}
        for suffix, is_thing in GROUPS.items():
            rows = [
                row[1:4]
                for row, category in zip(classes, self.categories.values(), strict=True)
                if row[1] >= 0 and is_thing in (None, bool(category["isthing"]))
            ]
            means = np.mean(rows, axis=0).tolist() if rows else [-1.0] * 3
            for name, mean in zip(("PQ", "SQ", "RQ"), means, strict=True):
                numbers[name + suffix] = mean
        return numbers

    def per_class(self) -> list[tuple[str, float, float, float, int]]:
        """Return (name, PQ, SQ, RQ, number of true segments) for each category."""
        tallies = [*self._tallies.values()]
        for image_id, annotation in self.truth.items():
            if image_id not in self._tallies:
                tallies.append(_nothing_found(annotation["segments_info"]))
        return [
            (name, *quality(tallies, k))
            for name, k in zip(self.class_names, self.categories, strict=True)
        ]

    def table(self) -> str:
        """Return the numbers and the classes that occur as text, in percent."""
        numbers = self.compute()
        lines = [f"Panoptic quality of {self.num_images} images, percent", ""]
        lines.append(f"{'':<8}{'PQ':>8}{'SQ':>8}{'RQ':>8}")
        for suffix in GROUPS:
            scores = (percent(numbers[name + suffix]) for name in ("PQ", "SQ", "RQ"))
            name = suffix.strip("_") or "all"
            lines.append(f"{name:<8}" + "".join(f"{score:>8}" for score in scores))
        rows = [row for row in self.per_class() if row[1] >= 0]
        width = max([5, *(len(row[0]) for row in rows)])
        lines += ["", f"{'class':<{width}}{'PQ':>8}{'SQ':>8}{'RQ':>8}{'segments':>10}"]
        for name, *scores, count in rows:
            cells = "".join(f"{percent(score):>8}" for score in scores)
            lines.append(f"{name:<{width}}{cells}{count:>10}")
        lines += missing_lines(self.truth, self._tallies)
        return "\n".join(lines)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The categories' names, in the order of the ground truth."""
        return tuple(str(c.get("name", k)) for k, c in self.categories.items())

    def image_scores(self) -> dict[int, float]:
        """Return the PQ of each image that has segments, over its own classes."""
        scores = {}
        for image_id, tally in self._tallies.items():
            own = [quality([tally], k)[0] for k in self.categories]
            own = [score for score in own if score >= 0]
            if own:
                scores[image_id] = float(np.mean(own))
        return scores

    def found(self, image_id: int) -> np.ndarray | None:
        """Return the class of each pixel of a saved map, -1 for void.

        Classes are counted as in `class_names`. None where no map was saved, or by
        another process in another place.
        """
        path = self._folder and self._folder / self._names[image_id]
        if path is None or not path.is_file():
            return None
        ids = read_panoptic_png(path)
        index_of = {k: index for index, k in enumerate(self.categories)}
        labels = np.full(ids.shape, -1, np.int32)
        for segment in self._annotations[image_id]["segments_info"]:
            labels[ids == segment["id"]] = index_of[segment["category_id"]]
        return labels

    def annotations(self) -> dict[str, Any]:
        """Return what was found as a COCO panoptic dictionary for `json.dump`."""
        return {
            "annotations": [self._annotations[k] for k in sorted(self._annotations)],
            "categories": list(self.categories.values()),
        }

    def state(self) -> bytes:
        """Return what was added, as bytes to send to another process for `merge`."""
        images = [
            [image_id, dataclasses.asdict(tally), self._annotations[image_id]]
            for image_id, tally in sorted(self._tallies.items())
        ]
        return json.dumps(images).encode()

    def merge(self, states: Iterable[bytes]) -> None:
        """Replace what was added by the union of `states`, with equal results.

        Raises:
          ValueError: two states hold the same image.
        """
        self.reset()
        for state in states:
            for image_id, tally, annotation in json.loads(state):
                check_new([image_id], self.truth, self._tallies)
                # JSON makes text of the category ids.
                fields = {
                    name: {int(k): value for k, value in field.items()}
                    for name, field in tally.items()
                }
                self._tallies[image_id] = Tally(**fields)
                self._annotations[image_id] = annotation

    def _truth_map(self, image_id: int) -> np.ndarray:
        check_new([image_id], self.truth, self._tallies)
        return np.asarray(self._load_truth(self.truth[image_id]["file_name"]))

    def _compare(
        self,
        image_id: int,
        truth: np.ndarray,
        found: np.ndarray,
        segments: Sequence[Mapping[str, Any]],
    ) -> None:
        strange = {s["category_id"] for s in segments} - set(self.categories)
        if strange:
            raise ValueError(f"image {image_id}: unknown categories {sorted(strange)}")
        annotation = self.truth[image_id]
        try:
            tally = match_segments(truth, annotation["segments_info"], found, segments)
        except ValueError as error:
            raise ValueError(f"image {image_id}: {error}") from error
        name = self._names[image_id]
        if self._folder is not None:
            write_panoptic_png(self._folder / name, found)
        self._tallies[image_id] = tally
        self._annotations[image_id] = {
            "image_id": image_id,
            "file_name": name,
            "segments_info": [dict(segment) for segment in segments],
        }


def _nothing_found(segments: Sequence[Mapping[str, Any]]) -> Tally:
    missed: dict[int, int] = {}
    for segment in segments:
        if not segment.get("iscrowd"):
            missed[segment["category_id"]] = missed.get(segment["category_id"], 0) + 1
    return Tally({}, {}, missed)
