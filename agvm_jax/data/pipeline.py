"""Batches: an endless, resumable training stream and one pass over an evaluation set.

The stream's position is a number of batches and nothing else. Global position p (image
p % batch_size of batch p // batch_size) shows image `shuffle(epoch)[p % n]` and draws
its augmentation from (seed, p), whatever the number of threads or processes; process i
of k takes positions i, i + k, i + 2k, ... So a run that stops can continue exactly, and
on another number of processes too.
"""

from collections.abc import Iterator
from typing import Any

import cv2
import grain
import numpy as np

from agvm_jax.data.decode import Size
from agvm_jax.data.errors import DataError
from agvm_jax.data.records import Source
from agvm_jax.data.rows import LoadedRow, load_evaluation_row, load_training_row
from agvm_jax.structures import Batch

_BUFFER_BYTES = 2**30  # pictures prepared ahead never take more than this


def train_batches(
    source: Source,
    *,
    image_size: int | Size,
    batch_size: int,
    seed: int,
    data_config: Any,
    process_index: int = 0,
    process_count: int = 1,
    start_batch: int = 0,
) -> "TrainBatches":
    """Endless training batches, shuffled anew each epoch.

    Args:
      source: a split, or anything with `len` and examples by index.
      image_size: (H, W) of the batch; one number means square.
      batch_size: images a step over all processes; each yields its
        batch_size / process_count.
      seed: 0 to 2**32 - 1.
      data_config: section `data` of the config (max_boxes, mask_size, flip,
        scale_range, num_threads, prefetch, max_unreadable).
      start_batch: batches already consumed; the stream continues after them.

    Returns:
      An iterator of numpy Batches with `close()` and `counters`.
    """
    rows = _share(batch_size, process_index, process_count)
    return TrainBatches(
        source,
        frame=_frame(image_size),
        rows=rows,
        seed=seed,
        config=data_config,
        shard=(process_index, process_count),
        start_batch=start_batch,
    )


def eval_batches(
    source: Source,
    *,
    image_size: int | Size,
    batch_size: int,
    data_config: Any,
    process_index: int = 0,
    process_count: int = 1,
) -> "EvalBatches":
    """One pass over a split in its order, without augmentation.

    Arguments as in `train_batches`. Every process gets the same number of batches, all
    of full size: rows that stand for no image carry image_id -1. An unreadable image
    leaves such a row too, so that an evaluator counts its objects as missed.

    Returns:
      An iterable with `len`; each `iter` starts a new pass.
    """
    rows = _share(batch_size, process_index, process_count)
    return EvalBatches(
        source,
        frame=_frame(image_size),
        rows=rows,
        config=data_config,
        shard=(process_index, process_count),
    )


class _Counting:
    """Counters of what the consumed batches went through.

    They are taken when a batch is handed out and not when it is prepared, so they do
    not depend on how far the threads have run ahead.
    """

    def __init__(self, max_unreadable: int):
        self._max_unreadable = max_unreadable
        self._unreadable: dict[str, str] = {}  # file name -> reason
        self.counters = {"unreadable_images": 0, "boxes_over_cap": 0}

    def _count(self, loaded: list[LoadedRow]) -> None:
        for one in loaded:
            self.counters["boxes_over_cap"] += one.over_cap
            self._unreadable.update(one.unreadable)
        self.counters["unreadable_images"] = len(self._unreadable)
        if len(self._unreadable) > self._max_unreadable:
            listed = "; ".join(
                f"{name!r} {reason}"
                for name, reason in list(self._unreadable.items())[:10]
            )
            raise DataError(
                f"{len(self._unreadable)} images are unreadable, more than"
                f" data.max_unreadable = {self._max_unreadable} allows: {listed}."
                " Replace them, or raise the limit to train without them."
            )


class TrainBatches(_Counting):
    """What `train_batches` returns.

    Attributes:
      counters: unreadable_images (different ones met so far; each was replaced by the
        next readable image) and boxes_over_cap (objects dropped by max_boxes).
    """

    def __init__(self, source, *, frame, rows, seed, config, shard, start_batch):
        super().__init__(config.max_unreadable)
        _check_stream(source, seed, start_batch)
        _check_config(config, frame)
        _use_one_thread_each()

        def load(index: int, rng: np.random.Generator) -> LoadedRow:
            return load_training_row(source, index, rng, frame, config)

        process_index, process_count = shard
        # random_map comes before the slice: its randomness is keyed by the global
        # position, not by the position within one process's share.
        dataset = (
            grain.MapDataset.range(len(source))
            .seed(seed)
            .shuffle()
            .repeat()
            .random_map(load)[process_index::process_count]
        )
        self._rows = rows
        self._iterator = iter(
            dataset.to_iter_dataset(_read_options(config, rows, frame))
        )
        self._iterator.set_state({"next_index": start_batch * rows})

    def __iter__(self) -> "TrainBatches":
        return self

    def __next__(self) -> Batch:
        loaded = [next(self._iterator) for _ in range(self._rows)]
        self._count(loaded)
        return _stack(loaded)

    def close(self) -> None:
        """Stop the reading threads. May be called twice."""
        self._iterator.close()


class EvalBatches(_Counting):
    """What `eval_batches` returns; `counters` are those of the last pass."""

    def __init__(self, source, *, frame, rows, config, shard):
        super().__init__(config.max_unreadable)
        _check_config(config, frame)
        _use_one_thread_each()
        process_index, process_count = shard
        self._length = -(-len(source) // (rows * process_count))
        self._rows = rows

        def load(index: int) -> LoadedRow:
            return load_evaluation_row(source, index, frame, config)

        self._dataset = (
            grain.MapDataset.range(self._length * rows * process_count)
            .map(load)[process_index::process_count]
            .to_iter_dataset(_read_options(config, rows, frame))
        )

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        super().__init__(self._max_unreadable)  # a pass counts for itself
        iterator = iter(self._dataset)
        try:
            for _ in range(self._length):
                loaded = [next(iterator) for _ in range(self._rows)]
                self._count(loaded)
                yield _stack(loaded)
        finally:
            iterator.close()


def _stack(loaded: list[LoadedRow]) -> Batch:
    """Rows -> Batch."""
    rows = [one.row for one in loaded]
    return Batch(**{key: np.stack([row[key] for row in rows]) for key in rows[0]})


def _read_options(config: Any, rows: int, frame: Size) -> grain.ReadOptions:
    """Threads, and a buffer of `prefetch` batches within the memory bound."""
    fits = _BUFFER_BYTES // (frame[0] * frame[1] * 3)
    ahead = max(config.num_threads, min(config.prefetch * rows, fits))
    return grain.ReadOptions(num_threads=config.num_threads, prefetch_buffer_size=ahead)


def _use_one_thread_each() -> None:
    """Images are already decoded in parallel; OpenCV's own threads would fight that."""
    cv2.setNumThreads(0)


def _frame(image_size: int | Size) -> Size:
    """One number means square."""
    if isinstance(image_size, int):
        return (image_size, image_size)
    height, width = image_size
    return (int(height), int(width))


def _share(batch_size: int, process_index: int, process_count: int) -> int:
    """Rows of each process; ValueError where the batch cannot be shared evenly."""
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"A batch of {batch_size} images cannot be shared by {process_count}"
            " processes; choose a batch_size that they divide."
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index {process_index} of {process_count} processes.")
    return batch_size // process_count


def _check_stream(source: Source, seed: int, start_batch: int) -> None:
    """Raise for what would otherwise fail inside a thread."""
    if len(source) == 0:
        raise DataError("The training split has no images.")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed is {seed}; it must lie in 0 .. 2**32 - 1.")
    if start_batch < 0:
        raise ValueError(f"start_batch is {start_batch}; it counts from 0.")


def _check_config(config: Any, frame: Size) -> None:
    """Raise a ValueError that names the key of config.data that cannot be used."""
    low, high = config.scale_range
    for good, key, rule in (
        (config.max_boxes >= 1, "max_boxes", "must be 1 or more"),
        (config.mask_size >= 0, "mask_size", "must be 0 (no masks) or more"),
        (
            config.semantic in ("none", "stuff", "all"),
            "semantic",
            "must be none, stuff or all",
        ),
        (config.semantic_stride >= 1, "semantic_stride", "must be 1 or more"),
        (0 <= config.flip <= 1, "flip", "is a probability, 0 to 1"),
        (0 < low <= high, "scale_range", "needs 0 < lowest <= highest"),
        (config.num_threads >= 0, "num_threads", "must be 0 or more"),
        (config.prefetch >= 0, "prefetch", "must be 0 or more"),
        (config.max_unreadable >= 0, "max_unreadable", "must be 0 or more"),
    ):
        if not good:
            raise ValueError(f"config.data.{key} is {getattr(config, key)}; it {rule}.")
    if config.semantic != "none" and any(s % config.semantic_stride for s in frame):
        raise ValueError(
            f"image_size {frame} is no multiple of config.data.semantic_stride ="
            f" {config.semantic_stride}."
        )
