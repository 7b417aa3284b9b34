"""A trained model: ``model.predict("cat.jpg")``."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any

import jax
import numpy as np

from agvm_jax.data.annotations.errors import UnreadableImage
from agvm_jax.evaluation.metrics.panoptic_merge import MergeRule
from agvm_jax.inference.card import ModelCard
from agvm_jax.inference.found import Found, in_image
from agvm_jax.inference.images import (
    Image,
    Opened,
    Row,
    bare_batch,
    make_row,
    open_image,
    stack,
)
from agvm_jax.structures import Batch, Predictions


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A model with its weights, ready to be used.

    ``experiment.load`` makes it.

    Attributes:
      card: what it gives and expects.
      detector: `models.functional.Detector`.
      params, model_state: its weights, nested dicts of arrays.
      run_batch: host batch of one row, or of `batch_size` -> predictions of its rows.
      batch_size: rows of a batch where there are as many images.
      source: which weights these are, for people.
    """

    card: ModelCard
    detector: Any
    params: Mapping[str, Any]
    model_state: Mapping[str, Any]
    run_batch: Callable[[Batch], Predictions]
    batch_size: int
    source: str

    @property
    def class_names(self) -> tuple[str, ...]:
        """K names; class k of a detection is class_names[k]."""
        return self.card.class_names

    @property
    def config(self) -> Mapping[str, Any]:
        """The config of the run, as nested dicts."""
        return self.card.config

    def predict(self, images: Any, score: float = 0.0) -> Any:
        """Predicts one image or several.

        Args:
          images: a path, or an (H, W, 3) uint8 RGB array; or a list or tuple of them.
            Files are turned as their EXIF data say, if those of training were.
          score: objects below it are left out. 0: all that evaluation counts.

        Returns:
          A `Found` for one image, a list of them for several.

        Raises:
          UnreadableImage: a file that is absent, damaged or no image.
          ValueError: an array that is no image.
        """
        if not isinstance(images, list | tuple):
            return self.predict([images], score)[0]
        found = [one for _, one in self.predict_each(images, score)]
        for one in found:
            if isinstance(one, UnreadableImage):
                raise one
        return found

    def predict_each(
        self, images: Iterable[Image], score: float = 0.0
    ) -> Iterator[tuple[Opened | None, Found | UnreadableImage]]:
        """Predicts images as they come, in their order, a batch at a time.

        Args:
          images: as in `predict`; any number of them, nothing is kept.
          score: as in `predict`.

        Yields:
          The opened image and what was found in it; or None and the error of a file
          that cannot be read.
        """
        # In their order, although images of the other orientation are another batch.
        waiting: list[tuple[Opened | None, Row | UnreadableImage]] = []
        # Two shapes are compiled, however many images there are: one image, on one
        # device, or a whole batch on all of them.
        few = isinstance(images, Sized) and len(images) < self.batch_size
        full = 1 if few else self.batch_size
        for image in images:
            try:
                opened = open_image(image, self.card.exif)
                waiting.append((opened, make_row(opened, self.card)))
            except UnreadableImage as error:
                waiting.append((None, error))
            if len(waiting) == full:
                yield from self._finish(waiting, full, score)
                waiting = []
        yield from self._finish(waiting, full, score)

    def _finish(
        self,
        waiting: list[tuple[Opened | None, Row | UnreadableImage]],
        count: int,
        score: float,
    ) -> list[tuple[Opened | None, Found | UnreadableImage]]:
        done: list[Any] = [(opened, row) for opened, row in waiting]
        frames: dict[tuple[int, ...], list[int]] = {}
        for i, (_, row) in enumerate(waiting):
            if isinstance(row, Row):
                frames.setdefault(row.image.shape, []).append(i)
        for shape, members in frames.items():
            batch = stack([waiting[i][1] for i in members], count)
            predictions = jax.device_get(self.run_batch(batch))
            for place, i in enumerate(members):
                opened, row = waiting[i]
                found = in_image(
                    predictions,
                    place,
                    name=opened.name,
                    size=opened.size,
                    window=row.window,
                    frame=shape[:2],
                    card=self.card,
                    score=score,
                    rule=MergeRule(**self.config["eval"].get("panoptic", {})),
                )
                done[i] = opened, found
        return done


def make_run_batch(
    predict: Callable[[Any, Any, Batch], Predictions],
    on_all: Callable[[Batch], Predictions],
    trees: tuple[Any, Any],
    devices: int,
) -> Callable[[Batch], Predictions]:
    """Returns a function that predicts on all devices, or on one.

    Args:
      predict: of the detector.
      on_all: predicts a batch whose rows all devices share.
      trees: parameters and model state, on all devices.
      devices: how many there are.
    """
    on_one = jax.jit(predict)

    def run(batch: Batch) -> Predictions:
        # Annotations would only be other shapes to compile for.
        ids = np.asarray(batch.image_id).astype(np.int32)
        batch = bare_batch(batch.image, batch.image_size, ids)
        if len(batch.image) % devices == 0:
            return on_all(batch)
        own = jax.tree.map(lambda leaf: leaf.addressable_data(0), trees)
        return on_one(*own, batch)

    return run
