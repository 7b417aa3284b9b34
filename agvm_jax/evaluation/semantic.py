"""Mean IoU and pixel accuracy of semantic segmentation."""

import io
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from agvm_jax.evaluation.metrics.coco_numbers import percent
from agvm_jax.evaluation.metrics.pixel_counts import (
    count_pixels,
    enlarge_labels,
    mean_of_defined,
    ratios,
)
from agvm_jax.evaluation.seen_images import check_new, missing_lines
from agvm_jax.structures import Batch, Predictions


class SemanticEvaluator:
    """Counts pixels of each true class under each predicted class.

    IoU of a class is the pixels that are it and were called it, over the pixels that
    are it or were called it. Pixels whose true label is "ignore" do not count, and a
    pixel that was given no class counts as wrong. A class that neither occurs nor was
    predicted is left out of the mean; one that was predicted but does not occur has IoU
    0 and is in it, as in mmsegmentation.

    Every image of `image_ids` counts: in one that was never added nothing was found,
    so all its labelled pixels are wrong.

    Args:
      class_names: a name for each class 0..K-1.
      image_ids: the images of the split.
      load_label: image id -> (H, W) labels of the original picture, 0..K-1, anything
        else is "ignore". Predictions are then enlarged to the original picture (nearest
        pixel), which published numbers are about. Without it they are compared with
        `batch.semantic` at its own resolution, and there are no numbers while an image
        is missing, since its pixels are not known.
      save_to: a folder for the predicted labels as PNG, `<image id>.png`, written as
        they come; made if it is not there. 255 stands for "no class", or 65535 where
        there are more than 255 classes.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        image_ids: Iterable[int],
        load_label: Callable[[int], np.ndarray] | None = None,
        save_to: str | os.PathLike[str] | None = None,
    ):
        if not class_names:
            raise ValueError("class_names must not be empty")
        self.class_names = tuple(class_names)
        self.image_ids = tuple(dict.fromkeys(int(i) for i in image_ids))
        self._known = frozenset(self.image_ids)
        # Image id -> (K,) true pixels of each class, of images that were missing.
        self._missed: dict[int, np.ndarray] = {}
        self._load_label = load_label
        self._folder = None if save_to is None else Path(save_to)
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
        self.reset()

    def reset(self) -> None:
        """Forget every image; files that were written stay."""
        classes = len(self.class_names)
        self._counts = np.zeros((classes, classes + 1), np.int64)
        # Image id -> how many of its labelled pixels are right, and how many there are.
        self.added: dict[int, tuple[int, int]] = {}

    @property
    def num_images(self) -> int:
        """How many images have been added."""
        return len(self.added)

    def add(self, batch: Batch, predictions: Predictions) -> None:
        """Take the label maps of a batch; rows whose image id is -1 are skipped.

        Raises:
          ValueError: an image is not of the split or was added before, there are no
            label maps, or those of batch and predictions differ in size.
        """
        found = predictions.semantic
        if found is None or (batch.semantic is None and self._load_label is None):
            raise ValueError("mean IoU needs `semantic` in batch and predictions")
        image_ids = np.asarray(batch.image_id).tolist()
        check_new([i for i in image_ids if i >= 0], self._known, self.added)
        for row, image_id in enumerate(image_ids):
            if image_id < 0:
                continue
            labels = np.asarray(found)[row]
            if self._load_label is None:
                truth = np.asarray(batch.semantic)[row]
            else:
                truth = np.asarray(self._load_label(image_id))
                size = np.asarray(batch.image_size)[row]
                padded = np.asarray(batch.image).shape[1:3]
                labels = enlarge_labels(labels, size, padded, truth.shape)
            counts = count_pixels(truth, labels, len(self.class_names))
            if self._folder is not None:
                self._save(image_id, labels)
            self._counts += counts
            self.added[image_id] = int(np.trace(counts)), int(counts.sum())

    @property
    def counts(self) -> np.ndarray:
        """(K, K + 1) pixels: row the true class, column the predicted, last for none.

        Raises:
          ValueError: images are missing, and without `load_label` so are their pixels.
        """
        missing = [i for i in self.image_ids if i not in self.added]
        if missing and self._load_label is None:
            raise ValueError(
                f"{len(missing)} of the {len(self.image_ids)} images were never added, "
                f"the first of them image {missing[0]}: give the evaluator load_label, "
                "so that their pixels can count as wrong, or leave them out of "
                "image_ids"
            )
        counts = self._counts.copy()
        for image_id in missing:
            if image_id not in self._missed:
                truth = np.asarray(self._load_label(image_id))
                none = np.full(truth.shape, -1)
                pixels = count_pixels(truth, none, len(self.class_names))[:, -1]
                self._missed[image_id] = pixels
            counts[:, -1] += self._missed[image_id]
        return counts

    def compute(self) -> dict[str, float]:
        """Return mIoU, mean_accuracy and pixel_accuracy, fractions, -1 if undefined.

        `pixel_accuracy` is the share of right pixels, `mean_accuracy` the mean over the
        classes that occur of the share of their pixels that is right.

        Raises:
          ValueError: see `counts`.
        """
        counts = self.counts
        iou, accuracy = ratios(counts)
        total = counts.sum()
        right = np.trace(counts)
        return {
            "mIoU": mean_of_defined(iou),
            "mean_accuracy": mean_of_defined(accuracy),
            "pixel_accuracy": float(right / total) if total else -1.0,
        }

    def per_class(self) -> list[tuple[str, float, float, int]]:
        """Return (name, IoU, accuracy, number of true pixels) for each class."""
        counts = self.counts
        pixels = counts.sum(axis=1).tolist()
        iou, accuracy = (np.nan_to_num(x, nan=-1.0).tolist() for x in ratios(counts))
        return list(zip(self.class_names, iou, accuracy, pixels, strict=True))

    def table(self) -> str:
        """Return the numbers and the classes as text, in percent."""
        lines = [f"Semantic segmentation of {self.num_images} images, percent", ""]
        lines += [f"{k:<16}{percent(v):>8}" for k, v in self.compute().items()]
        width = max(5, *(len(name) for name in self.class_names))
        lines += ["", f"{'class':<{width}}{'IoU':>8}{'accuracy':>10}{'pixels':>12}"]
        for name, iou, accuracy, pixels in self.per_class():
            scores = f"{percent(iou):>8}{percent(accuracy):>10}"
            lines.append(f"{name:<{width}}{scores}{pixels:>12}")
        lines += missing_lines(self.image_ids, self.added)
        return "\n".join(lines)

    def image_scores(self) -> dict[int, float]:
        """Return the pixel accuracy of each image that has labelled pixels."""
        return {i: right / all_ for i, (right, all_) in self.added.items() if all_}

    def found(self, image_id: int) -> np.ndarray | None:
        """Return the saved labels of an image, (H, W).

        None where none were saved, or by another process in another place.
        """
        path = self._folder and self._folder / f"{image_id}.png"
        if path is None or not path.is_file():
            return None
        with Image.open(path) as image:
            return np.asarray(image).astype(np.int32)

    def state(self) -> bytes:
        """Return what was added, as bytes to send to another process for `merge`."""
        buffer = io.BytesIO()
        added = [(i, *pixels) for i, pixels in sorted(self.added.items())]
        added = np.array(added, np.int64).reshape(-1, 3)
        np.savez(buffer, counts=self._counts, added=added)
        return buffer.getvalue()

    def merge(self, states: Iterable[bytes]) -> None:
        """Replace what was added by the union of `states`; counts add up exactly.

        Raises:
          ValueError: two states hold the same image.
        """
        self.reset()
        for state in states:
            with np.load(io.BytesIO(state)) as arrays:
                added = {i: tuple(pixels) for i, *pixels in arrays["added"].tolist()}
                check_new(added, self._known, self.added)
                self.added |= added
                self._counts += arrays["counts"]

    def _save(self, image_id: int, labels: np.ndarray) -> None:
        classes = len(self.class_names)
        kind = np.uint8 if classes < 256 else np.uint16
        named = (labels >= 0) & (labels < classes)
        values = np.where(named, labels.astype(np.int64), np.iinfo(kind).max)
        values = values.astype(kind)
        Image.fromarray(values).save(self._folder / f"{image_id}.png", "PNG")
