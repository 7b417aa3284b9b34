"""From host batches to device batches, the next one always under way.

While the devices work on a batch, a thread takes the next one from the data pipeline
and starts its transfer. There is one batch ahead and never more, so a device holds two.
"""

import concurrent.futures
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from agvm_jax.training import mesh as mesh_lib
from agvm_jax.training.progress import Progress
from agvm_jax.training.stop_signal import StopSignal


class StepAbandoned(Exception):
    """A signal came between two micro-batches of a step; the step never happened."""


class _Loaded(NamedTuple):
    batch: Any  # on the devices, or on its way there
    image_ids: np.ndarray
    counters: dict[str, int]  # of the stream up to this batch


class Feed:
    """Device batches, one after the other; an iterator.

    Reading ahead shows nowhere but in time: image ids and counters are those of batches
    handed out, and an error of the data is raised when its batch is asked for.

    Args:
      mesh: the data mesh.
      batches: this process's host batches from where the run stands, with `close()` and
        `counters`.
      passes: batches in a step.
      progress: shown the batches of a long step.
      stop: asked between the batches of a step.
    """

    def __init__(
        self,
        mesh: Mesh,
        batches: Iterator[Any],
        passes: int,
        progress: Progress,
        stop: StopSignal,
    ):
        self._mesh = mesh
        self._batches = batches
        self._passes = passes
        self._progress = progress
        self._stop = stop
        self._image_ids: list[np.ndarray] = []
        self._counters = dict(batches.counters)
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "feed")
        self._next = self._thread.submit(self._load)

    def __iter__(self) -> "Feed":
        return self

    def __next__(self) -> Any:
        if self._image_ids and self._stop.may_abandon_step:
            raise StepAbandoned
        loaded = self._next.result()
        self._next = self._thread.submit(self._load)
        self._counters = loaded.counters
        self._image_ids.append(loaded.image_ids)
        if self._passes > 2:
            self._progress.part(len(self._image_ids), self._passes)
        return loaded.batch

    def _load(self) -> _Loaded:
        batch = next(self._batches)
        return _Loaded(
            mesh_lib.put_batch(self._mesh, batch),
            np.asarray(batch.image_id),
            dict(self._batches.counters),
        )

    def take_image_ids(self) -> np.ndarray:
        """Returns the image ids handed out since the last call."""
        ids, self._image_ids = np.concatenate(self._image_ids), []
        return ids

    @property
    def counters(self) -> dict[str, int]:
        """What the data pipeline counted: unreadable images, dropped boxes, ..."""
        return self._counters

    def close(self) -> None:
        """Ends the thread and the reading threads."""
        self._thread.shutdown(cancel_futures=True)
        self._batches.close()
