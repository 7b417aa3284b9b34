"""COCO average precision of instance masks, beside that of their boxes."""

from collections.abc import Mapping
from typing import Any

import hotcoco
import numpy as np

from agvm_jax.evaluation.detection import DetectionEvaluator
from agvm_jax.evaluation.metrics.coco_numbers import (
    class_rows,
    format_classes,
    format_numbers,
    summary,
)
from agvm_jax.mask_pasting import encode_mask, paste_mask
from agvm_jax.structures import Batch, Predictions


class InstanceEvaluator(DetectionEvaluator):
    """Box and mask AP and AR.

    Takes what `DetectionEvaluator` takes; the ground truth's annotations need a
    `segmentation`: polygons, or run lengths. An object without one, or with polygons of
    fewer than three points only, is left out of mask AP: it is not to be found, and
    what is found within its box is not wrong. The table counts such objects, and a
    ground truth without any mask is refused. Predictions need `masks`, probabilities
    over each box. They are pasted into the original image when they are added and
    kept as run lengths, a few hundred bytes each. A detection's area is its mask's.

    `compute` returns the box numbers under their usual names and the mask numbers as
    mask_AP, mask_AP50 and so on. `result`, `per_class` and the diagnosis built on them
    are about boxes; `mask_result` and `mask_per_class` about masks.
    """

    _segmentations = True

    def reset(self) -> None:
        super().reset()
        self._counts: list[bytes] = []
        self._mask_result: hotcoco.COCOeval | None = None

    def add(self, batch: Batch, predictions: Predictions) -> None:
        """Take the detections of a batch, as `DetectionEvaluator.add` does.

        Raises:
          ValueError: there are no masks, or what `DetectionEvaluator.add` raises.
        """
        if predictions.masks is None:
            raise ValueError("the predictions have no masks, which mask AP needs")
        rows, slots = self._add_boxes(batch, predictions)
        self._mask_result = None
        masks = np.asarray(predictions.masks)
        for row, slot, (image_id, x, y, w, h) in zip(
            rows, slots, self._rows[-1][:, :5].tolist(), strict=True
        ):
            size = self.ground_truth.sizes[int(image_id)]
            box = np.array([x, y, x + w, y + h])
            self._counts.append(encode_mask(paste_mask(masks[row, slot], box, *size)))

    def compute(self) -> dict[str, float]:
        """Return box AP, AP50 ... and mask_AP, mask_AP50 ...: see `summary`."""
        masks = summary(self.mask_result(), self._groups)
        return super().compute() | {f"mask_{k}": v for k, v in masks.items()}

    def mask_per_class(self) -> list[tuple[str, float, float, int]]:
        """Return (name, mask AP, mask AP50, number of ground truth) for each class."""
        truth = self.ground_truth
        wanted = truth.classes[truth.masked & ~truth.crowd]
        return class_rows(self.class_names, wanted, self.mask_result(), self.columns)

    def table(self) -> str:
        """Return the table of boxes and below it that of masks."""
        lines = self._head("Mask average precision and recall")
        lines += format_numbers(summary(self.mask_result(), self._groups))
        lines += format_classes(self.mask_per_class(), "masks")
        bare = int(np.count_nonzero(~self.ground_truth.masked))
        if bare:
            lines += ["", f"Objects without a mask, left out of mask AP: {bare}"]
        if self.ground_truth.short_polygons:
            count = self.ground_truth.short_polygons
            lines += ["", f"True polygons of fewer than three points left out: {count}"]
        return super().table() + "\n\n" + "\n".join(lines)

    def detections(self) -> list[dict[str, Any]]:
        """Return the COCO results list; each entry has `bbox` and `segmentation`.

        pycocotools takes a detection's area from `bbox` where there is one: drop it
        from the list to evaluate masks there with the same sizes as here.
        """
        return [
            one | {"segmentation": rle}
            for one, rle in zip(super().detections(), self._rles(), strict=True)
        ]

    def regions(self, detections: np.ndarray) -> list[np.ndarray]:
        """Return the masks (H, W) uint8 of detections, by their places in `rows`."""
        return [hotcoco.mask.decode(rle) for rle in self._rles(detections)]

    def mask_result(self) -> hotcoco.COCOeval:
        """Return hotcoco's evaluation of the masks."""
        if self._mask_result is None:
            rles = self._rles()
            truth = self.ground_truth.masks
            found = truth.load_res(self.rows(), segmentation=rles)
            if rles:
                areas = hotcoco.mask.area(rles).astype(np.float64)
                found.update_anns(ids=np.arange(1, len(rles) + 1), area=areas)
            self._mask_result = self._evaluate(truth, found, "segm")
        return self._mask_result

    def _rles(self, places: np.ndarray | slice = slice(None)) -> list[dict[str, Any]]:
        """Run lengths of the detections at these places in `rows`; of all."""
        sizes = self.ground_truth.sizes
        ids = self.rows()[places, 0].astype(np.int64).tolist()
        return [
            {"size": list(sizes[image_id]), "counts": self._counts[k].decode("ascii")}
            for image_id, k in zip(ids, self._order()[places].tolist(), strict=True)
        ]

    def _arrays(self) -> dict[str, np.ndarray]:
        counts = [self._counts[k] for k in self._order()]
        return super()._arrays() | {
            "counts": np.frombuffer(b"".join(counts), np.uint8),
            "lengths": np.array([len(one) for one in counts], np.int64),
        }

    def _take_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        super()._take_arrays(arrays)
        text = arrays["counts"].tobytes()
        ends = np.cumsum(arrays["lengths"]).tolist()
        starts = [0, *ends[:-1]]
        self._counts += [text[a:b] for a, b in zip(starts, ends, strict=False)]
