"""Which settings of a stream can be used: each refusal names the key and the remedy."""

import os
from typing import Any

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.augment.decode import Size
from agvm_jax.data.storage.records import Source

_MOST_THREADS = 16  # beyond, they wait for Python's lock


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


def check_stream(source: Source, seed: int, start_batch: int) -> None:
    """Raise for what would otherwise fail inside a thread."""
    if len(source) == 0:
        raise DataError("The training split has no images.")
    if not 0 <= seed < 2**32:
        raise DataError(f"seed is {seed}; it must lie in 0 .. 2**32 - 1.")
    if start_batch < 0:
        raise DataError(f"start_batch is {start_batch}; it counts from 0.")


def check_config(config: Any, frame: Size) -> None:
    """Raise a DataError that names the key of config.data that cannot be used."""
    low, high = config.scale_range
    least, most = config.crop_range
    counts = ("mask_size", "long_side", "orientation_group", "num_threads", "prefetch")
    for good, key, rule in (
        (config.max_boxes >= 1, "max_boxes", "must be 1 or more"),
        *(
            (getattr(config, key) >= 0, key, "must be 0 or more")
            for key in (*counts, "max_unreadable")
        ),
        (
            config.semantic in ("none", "stuff", "all"),
            "semantic",
            "must be none, stuff or all",
        ),
        (config.semantic_stride >= 1, "semantic_stride", "must be 1 or more"),
        (0 < low <= high, "scale_range", "needs 0 < lowest <= highest"),
        (
            # One larger than the frame is not refused: the frame then decides, so
            # that a recipe for 800 px can be tried at 64.
            all(side > 0 for side in config.short_sides),
            "short_sides",
            "must be 1 or more, each",
        ),
        (config.crop in ("none", "size", "iou"), "crop", "must be none, size or iou"),
        (0 < least <= most <= 1, "crop_range", "needs 0 < smallest <= largest <= 1"),
        *(
            (0 <= getattr(config, key) <= 1, key, "must lie in 0 .. 1")
            for key in ("flip", "crop_probability", "brightness", "contrast")
        ),
        (0 <= config.saturation <= 1, "saturation", "must lie in 0 .. 1"),
        (0 <= config.hue <= 0.5, "hue", "must lie in 0 .. 0.5, half the circle"),
    ):
        if not good:
            raise DataError(f"config.data.{key} is {getattr(config, key)}; it {rule}.")
    if config.semantic != "none" and any(s % config.semantic_stride for s in frame):
        raise DataError(
            f"image_size {frame} is no multiple of config.data.semantic_stride ="
            f" {config.semantic_stride}."
        )


def check_group(group: int, batch_size: int) -> None:
    """A batch has one shape, so it may not reach over the end of a group."""
    if group % batch_size:
        raise DataError(
            f"config.data.orientation_group is {group}, but {batch_size} images are"
            " taken in at once and need one frame: choose a multiple of"
            f" {batch_size}, or a micro_batch_size that makes them a divisor of"
            f" {group}."
        )


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
