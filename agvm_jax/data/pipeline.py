"""Batches: an endless, resumable training stream and one pass over an evaluation set.

The stream's position is a number of batches and nothing else. Global position p (image
p % batch_size of batch p // batch_size) shows image `shuffle(epoch)[p % n]` and samples
its augmentation from (seed, p), whatever the number of threads or processes; of k
processes, number i takes the i-th of k equal parts of each batch. So a run that stops
can continue exactly, and on another number of processes too. With two frames (`order`)
another order takes the shuffle's place; the rest is the same.
"""

import functools
import os
import sys
from collections.abc import Iterator
from typing import Any

import cv2
import grain
import numpy as np

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.augment.decode import Size
from agvm_jax.data.example import (
    Counting,
    LoadedRow,
    check_config,
    load_evaluation_row,
    load_training_row,
)
from agvm_jax.data.order import (
    TrainOrder,
    check_group,
    evaluation_order,
    split_by_orientation,
)
from agvm_jax.data.pasting import make_pasted_row
from agvm_jax.data.storage.records import Source
from agvm_jax.structures import Batch

_BUFFER_BYTES = 2**30  # images prepared ahead never take more than this
_MOST_THREADS = 16  # beyond, they wait for Python's lock


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
      image_size: (H, W) of the batch, or (W, H) where data.orientation_group is set and
        the batch is of the other orientation; one number means square.
      batch_size: images a step over all processes; each yields its
        batch_size / process_count.
      seed: 0 to 2**32 - 1.
      data_config: section `data` of the config.
      start_batch: batches already consumed; the stream continues after them.

    Returns:
      An iterator of numpy Batches with `close()` and `counters`.
    """
    rows = share_of(batch_size, process_index, process_count)
    return TrainBatches(
        source,
        frame=frame_of(image_size),
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
    some: int | None = None,
) -> "EvalBatches":
    """One pass over a split, without augmentation.

    In the split's order; where data.orientation_group is set, landscape images first.

    Arguments as in `train_batches`; and `some`, that many images of all processes
    together instead of every one, spread evenly over the split. Every process gets the
    same number of batches, all of full size: rows that stand for no image carry
    image_id -1. An unreadable image leaves such a row too, so that an evaluator counts
    its objects as missed.

    Returns:
      An iterable with `len`; each `iter` starts a new pass.
    """
    rows = share_of(batch_size, process_index, process_count)
    return EvalBatches(
        source,
        frame=frame_of(image_size),
        rows=rows,
        config=data_config,
        shard=(process_index, process_count),
        some=some,
    )


class TrainBatches(Counting):
    """What `train_batches` returns.

    Attributes:
      counters: unreadable_images (different ones met so far; each was replaced by the
        next readable image), boxes_over_cap (objects dropped by max_boxes) and
        boxes_without_mask (objects dropped because data.mask_size asks for masks and
        theirs has no pixel in the box).
    """

    def __init__(self, source, *, frame, rows, seed, config, shard, start_batch):
        super().__init__(config.max_unreadable)
        augmentation = check_config(config, frame)
        # What would otherwise fail inside a thread.
        images = len(source)
        if images == 0:
            raise DataError("The training split has no images.")
        if not 0 <= seed < 2**32:
            raise DataError(f"seed is {seed}; it must lie in 0 .. 2**32 - 1.")
        if start_batch < 0:
            raise DataError(f"start_batch is {start_batch}; it counts from 0.")
        kinds = _kinds(source, frame, config)
        if len(kinds) == 1:
            order = grain.MapDataset.range(images).seed(seed).shuffle().repeat()
        else:
            check_group(config.orientation_group, rows * shard[1])
            counts = [len(some) for some, _ in kinds]
            order = grain.MapDataset.source(
                TrainOrder(counts, config.orientation_group, seed)
            ).seed(seed)

        def load(place: int | tuple[int, int], rng: np.random.Generator) -> LoadedRow:
            kind, index = (0, place) if len(kinds) == 1 else place
            some, own = kinds[kind]
            make = None
            if augmentation.copy_paste:
                make = functools.partial(make_pasted_row, some, augmentation)
            return load_training_row(some, index, rng, own, config, augmentation, make)

        # Its randomness is keyed by the global position, not by the position within one
        # process's share.
        examples = order.random_map(load)
        process_index, process_count = shard

        def row_of(number: int) -> LoadedRow:
            # A process's rows of a batch lie side by side, as those of a device do: so
            # which images are together on a device, and in the same half for AGVM, does
            # not depend on the number of processes.
            batch, row = divmod(number, rows)
            return examples[(batch * process_count + process_index) * rows + row]

        dataset = grain.MapDataset.range(sys.maxsize // process_count).map(row_of)
        self._rows = rows
        self._iterator = iter(
            dataset.to_iter_dataset(_read_options(config, rows, frame))
        )
        self._iterator.set_state({"next_index": start_batch * rows})

    def __iter__(self) -> "TrainBatches":
        return self

    def __next__(self) -> Batch:
        loaded = [next(self._iterator) for _ in range(self._rows)]
        self.count(loaded)
        return _stack(loaded)

    def close(self) -> None:
        """Stop the reading threads. May be called twice."""
        self._iterator.close()


class EvalBatches(Counting):
    """What `eval_batches` returns; `counters` are those of the last pass."""

    def __init__(self, source, *, frame, rows, config, shard, some):
        super().__init__(config.max_unreadable)
        resizing = check_config(config, frame).resizing
        process_index, process_count = shard
        kinds = _kinds(source, frame, config)
        counts = [len(some) for some, _ in kinds]
        order = evaluation_order(counts, rows * process_count, some)
        self._length = len(order) // (rows * process_count)
        self._rows = rows

        def load(place: tuple[int, int]) -> LoadedRow:
            kind, index = place
            some, own = kinds[kind]
            return load_evaluation_row(some, index, own, config, resizing)

        self._dataset = (
            grain.MapDataset.source(order)
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
                self.count(loaded)
                yield _stack(loaded)
        finally:
            iterator.close()


def _stack(loaded: list[LoadedRow]) -> Batch:
    """Rows -> Batch."""
    rows = [one.row for one in loaded]
    return Batch(**{key: np.stack([row[key] for row in rows]) for key in rows[0]})


def _kinds(source: Source, frame: Size, config: Any) -> list[tuple[Source, Size]]:
    """The source's images by the frame that they go into, one kind or two."""
    if config.orientation_group:
        return split_by_orientation(source, frame)
    return [(source, frame)]


def _read_options(config: Any, rows: int, frame: Size) -> grain.ReadOptions:
    """Threads, and a buffer of `prefetch` batches within the memory bound."""
    # Images are decoded in parallel; OpenCV's own threads would fight that.
    cv2.setNumThreads(0)
    fits = _BUFFER_BYTES // (frame[0] * frame[1] * 3)
    threads = reading_threads(config.num_threads)
    ahead = max(threads, min(config.prefetch * rows, fits))
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)


def reading_threads(num_threads: int) -> int:
    """The number asked for; 0: one a core that this process may use, up to 16."""
    if num_threads:
        return num_threads
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return min(cores, _MOST_THREADS)


def frame_of(image_size: int | Size) -> Size:
    """One number means square."""
    if isinstance(image_size, int):
        return (image_size, image_size)
    height, width = image_size
    return (int(height), int(width))


def share_of(batch_size: int, process_index: int, process_count: int) -> int:
    """Rows of each process; DataError where the batch cannot be shared evenly."""
    if batch_size < 1 or batch_size % process_count:
        raise DataError(
            f"A batch of {batch_size} images cannot be shared by {process_count}"
            " processes; choose a batch_size that they divide."
        )
    if not 0 <= process_index < process_count:
        raise DataError(f"process_index {process_index} of {process_count} processes.")
    return batch_size // process_count


def check_settings(config: Any, image_size: int | Size, batch_size: int) -> None:
    """Raise what a training stream would, before there is one.

    Args:
      config: section `data`.
      image_size: as in `pipeline.train_batches`.
      batch_size: images taken in at once, over all processes.
    """
    check_config(config, frame_of(image_size))
    if config.orientation_group:
        check_group(config.orientation_group, batch_size)
