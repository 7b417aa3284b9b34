"""COCO average precision of boxes, gathered batch by batch.

hotcoco matches detections with ground truth. Nothing is evaluated until `compute` is
called; what is kept until then is seven numbers a detection.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import hotcoco
import numpy as np

from agvm_jax.evaluation.metrics.coco_numbers import (
    class_rows,
    format_classes,
    format_numbers,
    summary,
)
from agvm_jax.evaluation.metrics.ground_truth import read_ground_truth
from agvm_jax.evaluation.seen_images import check_new, missing_lines
from agvm_jax.structures import Batch, Predictions

MOST_DETECTIONS = {"coco": (1, 10, 100), "lvis": (300,)}


class DetectionEvaluator:
    """Box AP and AR as COCO defines them, or LVIS.

    LVIS' rules hold where the ground truth's images list `neg_category_ids` and
    `not_exhaustive_category_ids`: detections of categories of which an image says
    nothing do not count, the best 300 detections of an image are judged whatever their
    class, crowds are unknown, and there are APr, APc and APf of rare, common and
    frequent categories (see `federated`).

    Every image of the ground truth counts: one that was never added counts as an image
    without detections, as it does for a results file handed to pycocotools. Categories
    of the ground truth outside `category_ids` are left out.

    Args:
      ground_truth: a COCO dictionary with `images` (id, height, width), `annotations`
        (image_id, category_id, bbox as x y w h, and if present area, iscrowd, ignore)
        and `categories`. It is read once, here, and not kept.
      category_ids: the COCO category id of class 0, 1, ... K-1.
      class_names: a name for each class.
      max_detections: the numbers of best detections an image and class at which recall
        is reported; precision uses the last. By LVIS' rules the largest counts alone,
        and it is that of an image. (): 1, 10 and 100 for COCO, 300 for LVIS.
      protocol: "coco", "lvis", or "auto": what the ground truth is like.

    Raises:
      ValueError: the ground truth lacks something that is needed, or names an image or
        a category that it does not list.
    """

    _segmentations = False  # whether the ground truth's masks are wanted

    def __init__(
        self,
        ground_truth: Mapping[str, Any],
        category_ids: Sequence[int],
        class_names: Sequence[str],
        max_detections: Sequence[int] = (),
        protocol: str = "auto",
    ):
        self.category_ids = tuple(int(c) for c in category_ids)
        self.class_names = tuple(class_names)
        if len(self.category_ids) != len(self.class_names):
            raise ValueError(
                f"{len(self.category_ids)} category ids but {len(self.class_names)} "
                "class names: give one name for each id"
            )
        if len(set(self.category_ids)) != len(self.category_ids):
            raise ValueError(f"category ids repeat: {self.category_ids}")
        if not self.category_ids:
            raise ValueError("category_ids must not be empty")
        self.ground_truth = read_ground_truth(
            ground_truth,
            self.category_ids,
            self.class_names,
            self._segmentations,
            protocol,
        )
        federated = self.ground_truth.federated
        self.protocol = "lvis" if federated else "coco"
        chosen = sorted(max_detections) or MOST_DETECTIONS[self.protocol]
        self.max_detections = tuple(chosen[-1:] if federated else chosen)
        self._groups = federated.columns(self.category_ids) if federated else {}
        # Where each class stands in hotcoco's arrays, which are sorted by category id.
        self.columns = np.argsort(np.argsort(self.category_ids))
        self.reset()

    def reset(self) -> None:
        """Forget every detection; the ground truth stays."""
        self.added: set[int] = set()
        self._rows: list[np.ndarray] = []
        self._result: hotcoco.COCOeval | None = None
        self.non_finite = 0  # detections dropped for a NaN or infinite box or score

    @property
    def num_images(self) -> int:
        """How many images have been added."""
        return len(self.added)

    def add(self, batch: Batch, predictions: Predictions) -> None:
        """Take the detections of a batch; rows whose image id is -1 are skipped.

        Args:
          batch: host arrays; only `image_id` and `image_size` are read.
          predictions: host arrays, boxes in pixels of the padded input. They are mapped
            to the original image through its height and width in the ground truth.

        Raises:
          ValueError: an image that the ground truth does not have, one that was added
            before, or a class outside 0..K-1. Nothing of the batch is kept then.
        """
        self._add_boxes(batch, predictions)

    def _add_boxes(
        self, batch: Batch, predictions: Predictions
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the batch rows and the slots of what became detections, (n,) each."""
        image_ids = np.asarray(batch.image_id).astype(np.int64)
        real = np.flatnonzero(image_ids >= 0)
        ids = image_ids[real]
        check_new(ids.tolist(), self.ground_truth.sizes, self.added)
        original = np.array(
            [self.ground_truth.sizes[i] for i in ids.tolist()], np.float64
        )
        scale = original.reshape(-1, 2) / np.asarray(batch.image_size)[real]  # (b, 2)

        valid = np.asarray(predictions.valid)[real]  # (b, D)
        image, slot = np.nonzero(valid)
        boxes = np.asarray(predictions.boxes)[real][image, slot].astype(np.float64)
        boxes *= scale[image][:, [1, 0, 1, 0]]
        scores = np.asarray(predictions.scores)[real][image, slot].astype(np.float64)
        classes = np.asarray(predictions.classes)[real][image, slot]
        strange = (classes < 0) | (classes >= len(self.category_ids))
        if strange.any():
            at = int(np.argmax(strange))
            raise ValueError(
                f"image {ids[image[at]]}: a detection has class {classes[at]}, but "
                f"classes are 0..{len(self.category_ids) - 1}"
            )
        rows = np.empty((len(image), 7), np.float64)
        rows[:, 0] = ids[image]
        rows[:, 1:3] = boxes[:, :2]
        rows[:, 3:5] = boxes[:, 2:] - boxes[:, :2]
        rows[:, 5] = scores
        rows[:, 6] = np.asarray(self.category_ids)[classes]
        finite = np.isfinite(rows).all(axis=1)
        self.non_finite += int(np.count_nonzero(~finite))
        self._rows.append(rows[finite])
        self.added.update(ids.tolist())
        self._result = None
        return real[image[finite]], slot[finite]

    def compute(self) -> dict[str, float]:
        """Return the numbers of `coco_numbers.summary`: twelve, or LVIS' thirteen."""
        return summary(self.result(), self._groups)

    def per_class(self) -> list[tuple[str, float, float, int]]:
        """Return (name, AP, AP50, number of ground truth boxes) for each class.

        Crowd regions are not counted; a class without ground truth has AP -1.
        """
        wanted = self.ground_truth.classes[~self.ground_truth.crowd]
        return class_rows(self.class_names, wanted, self.result(), self.columns)

    def table(self) -> str:
        """Return the twelve numbers and the per-class table as text, in percent."""
        lines = self._head("Box average precision and recall")
        lines += format_numbers(summary(self.result(), self._groups))
        lines += format_classes(self.per_class(), "boxes")
        lines += missing_lines(self.ground_truth.sizes, self.added)
        flat = int(np.count_nonzero(self.ground_truth.flat))
        if flat:
            lines += ["", f"True boxes without area, which nothing can match: {flat}"]
        if self.non_finite:
            lines += ["", f"Detections dropped as not finite: {self.non_finite}"]
        return "\n".join(lines)

    def _head(self, what: str) -> list[str]:
        most = f"{self.max_detections[-1]} detections an image"
        if self.protocol == "coco":
            return [f"{what}, percent ({most})", ""]
        return [f"{what}, percent (LVIS, {most})", ""]

    def regions(self, detections: np.ndarray) -> list[np.ndarray] | None:
        """Return the masks of detections, by their places in `rows`; here None."""
        del detections
        return None

    def detections(self) -> list[dict[str, Any]]:
        """Return the detections as a COCO results list, ready for `json.dump`.

        Original pixels, `bbox` as x y w h, sorted by image id; within an image in the
        order in which the detector gave them. Evaluating this list again gives the same
        numbers: nothing is rounded.
        """
        return [
            {
                "image_id": int(row[0]),
                "category_id": int(row[6]),
                "bbox": row[1:5],
                "score": row[5],
            }
            for row in self.rows().tolist()
        ]

    def state(self) -> bytes:
        """Return what was added, as bytes to send to another process for `merge`."""
        buffer = io.BytesIO()
        np.savez(buffer, **self._arrays())
        return buffer.getvalue()

    def merge(self, states: Iterable[bytes]) -> None:
        """Replace what was added by the union of `states`, one a process.

        The result equals, bit for bit, that of one evaluator that was given every
        image: detections are ordered by image id before they are evaluated.

        Raises:
          ValueError: two states hold the same image.
        """
        self.reset()
        for state in states:
            with np.load(io.BytesIO(state)) as arrays:
                ids = arrays["added"].tolist()
                check_new(ids, self.ground_truth.sizes, self.added)
                self._take_arrays(arrays)

    def result(self) -> hotcoco.COCOeval:
        """Return hotcoco's evaluation of what was added, for further diagnosis."""
        if self._result is None:
            truth = self.ground_truth.coco
            self._result = self._evaluate(truth, truth.load_res(self.rows()), "bbox")
        return self._result

    def _evaluate(
        self, truth: hotcoco.COCO, found: hotcoco.COCO, kind: str
    ) -> hotcoco.COCOeval:
        lvis = self.protocol == "lvis"
        if lvis:
            found = found.cap_detections_per_image(self.max_detections[-1])
        result = hotcoco.COCOeval(truth, found, kind, lvis_style=lvis)
        result.params.max_dets = list(self.max_detections)
        result.evaluate()
        result.accumulate()
        return result

    def rows(self) -> np.ndarray:
        """Return the detections, (N, 7): image id, x, y, w, h, score, category id.

        Sorted by image id, so that the order in which batches came has no effect.
        """
        return self._unsorted_rows()[self._order()]

    def _unsorted_rows(self) -> np.ndarray:
        return np.concatenate(self._rows) if self._rows else np.empty((0, 7))

    def _order(self) -> np.ndarray:
        return np.argsort(self._unsorted_rows()[:, 0], kind="stable")

    def _arrays(self) -> dict[str, np.ndarray]:
        """What `state` holds."""
        return {
            "added": np.array(sorted(self.added), np.int64),
            "rows": self.rows(),
            "non_finite": np.array(self.non_finite),
        }

    def _take_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Add what another process's `_arrays` holds."""
        self.added.update(arrays["added"].tolist())
        self._rows.append(arrays["rows"])
        self.non_finite += int(arrays["non_finite"])
