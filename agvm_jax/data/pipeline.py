"""Batches: an endless, resumable training stream and one pass over an evaluation set.

The stream's position is a number of batches and nothing else. Global position p (image
p % batch_size of batch p // batch_size) shows image `shuffle(epoch)[p % n]` and draws
its augmentation from (seed, p), whatever the number of threads or processes; process i
of k takes positions i, i + k, i + 2k, ... So a run that stops can continue exactly, and
on another number of processes too. With two frames (`orientation`) another order takes
the shuffle's place; the rest is the same.
"""

from collections.abc import Iterator
from typing import Any

import cv2
import grain
import numpy as np

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.augment.augmentation import Augmentation
from agvm_jax.data.augment.decode import Size
from agvm_jax.data.example import LoadedRow, load_evaluation_row, load_training_row
from agvm_jax.data.order import (
    Members,
    TrainOrder,
    evaluation_order,
    split_by_orientation,
)
from agvm_jax.data.settings import (
    check_config,
    check_group,
    check_stream,
    frame_of,
    reading_threads,
    share_of,
)
from agvm_jax.data.storage.records import Source
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
) -> "EvalBatches":
    """One pass over a split, without augmentation.

    In the split's order; where data.orientation_group is set, landscape images first.

    Arguments as in `train_batches`. Every process gets the same number of batches, all
    of full size: rows that stand for no image carry image_id -1. An unreadable image
    leaves such a row too, so that an evaluator counts its objects as missed.

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
    )


class _Counting:
    """Counters of what the consumed batches went through.

    They are taken when a batch is handed out and not when it is prepared, so they do
    not depend on how far the threads have run ahead.
    """

    def __init__(self, max_unreadable: int):
        self._max_unreadable = max_unreadable
        self._unreadable: dict[str, str] = {}  # file name -> reason
        self.counters = dict.fromkeys(
            ("unreadable_images", "boxes_over_cap", "boxes_without_mask"), 0
        )

    def _count(self, loaded: list[LoadedRow]) -> None:
        for one in loaded:
            self.counters["boxes_over_cap"] += one.dropped.over_cap
            self.counters["boxes_without_mask"] += one.dropped.without_mask
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
        next readable image), boxes_over_cap (objects dropped by max_boxes) and
        boxes_without_mask (objects dropped because data.mask_size asks for masks and
        theirs has no pixel in the box).
    """

    def __init__(self, source, *, frame, rows, seed, config, shard, start_batch):
        super().__init__(config.max_unreadable)
        check_stream(source, seed, start_batch)
        check_config(config, frame)
        _use_one_thread_each()
        augmentation = Augmentation.of(config)
        process_index, process_count = shard
        members = _members(source, frame, config)
        if len(members) == 1:
            order = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
        else:
            check_group(config.orientation_group, rows * process_count)
            counts = [len(some) for some in members]
            order = grain.MapDataset.source(
                TrainOrder(counts, config.orientation_group, seed)
            ).seed(seed)

        def load(place: int | tuple[int, int], rng: np.random.Generator) -> LoadedRow:
            kind, index = (0, place) if len(members) == 1 else place
            some = members[kind]
            return load_training_row(some, index, rng, some.frame, config, augmentation)

        # random_map comes before the slice: its randomness is keyed by the global
        # position, not by the position within one process's share.
        dataset = order.random_map(load)[process_index::process_count]
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
        check_config(config, frame)
        _use_one_thread_each()
        resizing = Augmentation.of(config).resizing
        process_index, process_count = shard
        members = _members(source, frame, config)
        order = evaluation_order([len(some) for some in members], rows * process_count)
        self._length = len(order) // (rows * process_count)
        self._rows = rows

        def load(place: tuple[int, int]) -> LoadedRow:
            kind, index = place
            some = members[kind]
            return load_evaluation_row(some, index, some.frame, config, resizing)

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
                self._count(loaded)
                yield _stack(loaded)
        finally:
            iterator.close()


def _stack(loaded: list[LoadedRow]) -> Batch:
    """Rows -> Batch."""
    rows = [one.row for one in loaded]
    return Batch(**{key: np.stack([row[key] for row in rows]) for key in rows[0]})


def _members(source: Source, frame: Size, config: Any) -> tuple[Members, ...]:
    """The source's images, by the frame they go into."""
    if config.orientation_group:
        return split_by_orientation(source, frame)
    return (Members(source, np.arange(len(source)), frame),)


def _read_options(config: Any, rows: int, frame: Size) -> grain.ReadOptions:
    """Threads, and a buffer of `prefetch` batches within the memory bound."""
    fits = _BUFFER_BYTES // (frame[0] * frame[1] * 3)
    threads = reading_threads(config.num_threads)
    ahead = max(threads, min(config.prefetch * rows, fits))
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)


def _use_one_thread_each() -> None:
    """Images are already decoded in parallel; OpenCV's own threads would fight that."""
    cv2.setNumThreads(0)
