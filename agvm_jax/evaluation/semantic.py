"""Mean IoU and pixel accuracy of semantic segmentation."""

import io
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from agvm_jax.evaluation.coco_numbers import percent
from agvm_jax.structures import Batch, Predictions


class SemanticEvaluator:
    """Counts pixels of each true class under each predicted class.

    IoU of a class is the pixels that are it and were called it, over the pixels that
    are it or were called it. Pixels whose true label is "ignore" do not count, and a
    pixel that was given no class counts as wrong. A class that neither occurs nor was
    predicted is left out of the mean; one that was predicted but does not occur has IoU
    0 and is in it, as in mmsegmentation.

    Args:
      class_names: a name for each class 0..K-1.
      load_label: image id -> (H, W) labels of the original picture, 0..K-1, anything
        else is "ignore". Predictions are then enlarged to the original picture (nearest
        pixel), which published numbers are about. Without it they are compared with
        `batch.semantic` at its own resolution.
      save_to: a folder for the predicted labels as PNG, `<image id>.png`, written as
        they come; made if it is not there. 255 stands for "no class", or 65535 where
        there are more than 255 classes.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        load_label: Callable[[int], np.ndarray] | None = None,
        save_to: str | os.PathLike[str] | None = None,
    ):
        if not class_names:
            raise ValueError("class_names must not be empty")
        self.class_names = tuple(class_names)
        self._load_label = load_label
        self._folder = None if save_to is None else Path(save_to)
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
        self.reset()

    def reset(self) -> None:
        """Forget every image; files that were written stay."""
        classes = len(self.class_names)
        # Row: the true class. Column: the predicted one, the last for "no class".
        self.counts = np.zeros((classes, classes + 1), np.int64)
        # Image id -> how many of its labelled pixels are right, and how many there are.
        self.added: dict[int, tuple[int, int]] = {}

    @property
    def num_images(self) -> int:
        """How many images have been added."""
        return len(self.added)

    def add(self, batch: Batch, predictions: Predictions) -> None:
        """Take the label maps of a batch; rows whose image id is -1 are skipped.

        Raises:
          ValueError: an image was added before, there are no label maps, or those of
            batch and predictions differ in size.
        """
        found = predictions.semantic
        if found is None or (batch.semantic is None and self._load_label is None):
            raise ValueError("mean IoU needs `semantic` in batch and predictions")
        for row, image_id in enumerate(np.asarray(batch.image_id).tolist()):
            if image_id < 0:
                continue
            if image_id in self.added:
                raise ValueError(
                    f"image {image_id} was added twice: reset the evaluator between "
                    "evaluations, and give rows that only fill a batch image_id -1"
                )
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
            self.counts += counts
            self.added[image_id] = int(np.trace(counts)), int(counts.sum())

    def compute(self) -> dict[str, float]:
        """Return mIoU, mean_accuracy and pixel_accuracy, fractions, -1 if undefined.

        `pixel_accuracy` is the share of right pixels, `mean_accuracy` the mean over the
        classes that occur of the share of their pixels that is right.
        """
        iou, accuracy = self._ratios()
        total = self.counts.sum()
        right = np.trace(self.counts)
        return {
            "mIoU": _mean(iou),
            "mean_accuracy": _mean(accuracy),
            "pixel_accuracy": float(right / total) if total else -1.0,
        }

    def per_class(self) -> list[tuple[str, float, float, int]]:
        """Return (name, IoU, accuracy, number of true pixels) for each class."""
        pixels = self.counts.sum(axis=1).tolist()
        iou, accuracy = (np.nan_to_num(x, nan=-1.0).tolist() for x in self._ratios())
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
        np.savez(buffer, counts=self.counts, added=added)
        return buffer.getvalue()

    def merge(self, states: Iterable[bytes]) -> None:
        """Replace what was added by the union of `states`; counts add up exactly.

        Raises:
          ValueError: two states hold the same image.
        """
        self.reset()
        for state in states:
            with np.load(io.BytesIO(state)) as arrays:
                added = {i: pixels for i, *pixels in arrays["added"].tolist()}
                twice = added.keys() & self.added.keys()
                if twice:
                    raise ValueError(
                        f"image {min(twice)} was evaluated by two processes"
                    )
                self.added |= {i: tuple(pixels) for i, pixels in added.items()}
                self.counts += arrays["counts"]

    def _save(self, image_id: int, labels: np.ndarray) -> None:
        classes = len(self.class_names)
        kind = np.uint8 if classes < 256 else np.uint16
        named = (labels >= 0) & (labels < classes)
        values = np.where(named, labels, np.iinfo(kind).max).astype(kind)
        Image.fromarray(values).save(self._folder / f"{image_id}.png", "PNG")

    def _ratios(self) -> tuple[np.ndarray, np.ndarray]:
        """IoU and accuracy of each class, (K,), NaN where undefined."""
        right = np.diagonal(self.counts).astype(np.float64)
        true = self.counts.sum(axis=1)
        called = self.counts[:, :-1].sum(axis=0)
        union = true + called - right
        iou = np.divide(right, union, out=np.full_like(right, np.nan), where=union > 0)
        accuracy = np.divide(
            right, true, out=np.full_like(right, np.nan), where=true > 0
        )
        return iou, accuracy


def count_pixels(truth: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Return (K, K + 1) counts: row the true class, column the label, last for others.

    Pixels whose true class is not in 0..K-1 are left out.

    Raises:
      ValueError: the maps differ in size.
    """
    if truth.shape != labels.shape:
        raise ValueError(
            f"labels of size {labels.shape} against a truth of size {truth.shape}"
        )
    counted = (truth >= 0) & (truth < classes)
    true = truth[counted].astype(np.int64)
    called = labels[counted].astype(np.int64)
    called[(called < 0) | (called >= classes)] = classes
    cells = np.bincount(
        true * (classes + 1) + called, minlength=classes * (classes + 1)
    )
    return cells.reshape(classes, classes + 1)


def enlarge_labels(
    labels: np.ndarray,
    image_size: Sequence[int],
    padded_size: Sequence[int],
    original_size: Sequence[int],
) -> np.ndarray:
    """Return the labels of the original picture's pixels, nearest neighbour.

    Args:
      labels: (h, w) over the padded input, at any stride.
      image_size: height and width of the picture inside the padded input.
      padded_size: height and width of the padded input.
      original_size: height and width of the original picture.
    """
    index = []
    for cells, size, padded, original in zip(
        labels.shape, image_size, padded_size, original_size, strict=True
    ):
        # A pixel's centre, from the original picture to the padded input to a cell.
        position = (np.arange(original) + 0.5) * (size / original) * (cells / padded)
        index.append(np.minimum(position.astype(np.int64), cells - 1))
    return labels[np.ix_(*index)]


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(np.mean(defined)) if defined.size else -1.0
