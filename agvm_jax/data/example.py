"""From an example of a source to one padded row of a batch, whatever its state."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from agvm_jax.data.annotations.errors import DataError, UnreadableImage
from agvm_jax.data.annotations.objects import unpack
from agvm_jax.data.annotations.segments import IGNORE, labels_of
from agvm_jax.data.augment.augmentation import (
    Augmentation,
    Resizing,
    Transform,
    ranges_of_augmentation,
    sample,
    still_placement,
)
from agvm_jax.data.augment.decode import Size, decode_image, jpeg_divisor
from agvm_jax.data.storage.records import Source


class Dropped(NamedTuple):
    """How many objects of an image are not in its row."""

    over_cap: int = 0  # because of max_boxes
    without_mask: int = 0  # because masks are learnt and of theirs nothing is seen


@dataclasses.dataclass(frozen=True)
class LoadedRow:
    """One row, and what happened on the way to it; counted when it is consumed."""

    row: dict[str, np.ndarray]
    dropped: "Dropped"
    unreadable: tuple[tuple[str, str], ...]  # (file name, reason)


class Counting:
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

    def count(self, loaded: list[LoadedRow]) -> None:
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


def load_training_row(
    source: Source,
    index: int,
    rng: np.random.Generator,
    frame: Size,
    config: Any,
    augmentation: Augmentation,
    make: Callable[..., tuple[dict[str, np.ndarray], Dropped]] | None = None,
) -> LoadedRow:
    """A training row; an unreadable image is replaced by the next readable one.

    `make` makes the row, by default `make_row`, whose arguments it takes. After more
    failures in a row than the limit allows it gives up: the consumer's count then
    exceeds the limit, and raises.
    """
    unreadable: list[tuple[str, str]] = []
    for step in range(min(len(source), config.max_unreadable + 1)):
        example = source[(index + step) % len(source)]
        size = (example["height"], example["width"])
        try:
            targets = example["boxes"][~example["crowd"]]
            labels = None
            if config.semantic != "none" and augmentation.cat_max_ratio < 1:
                labels = labels_of(example, config.semantic)
            transform = sample(rng, _known(size), frame, augmentation, targets, labels)
            row, dropped = (make or make_row)(
                example, transform, frame, config, rng, labels
            )
        except UnreadableImage as error:
            unreadable.append((example["file_name"], str(error)))
        else:
            return LoadedRow(row, dropped, tuple(unreadable))
    if len(unreadable) <= config.max_unreadable:  # a set smaller than the limit
        raise DataError(
            f"None of the {len(source)} images can be read: {unreadable[0][0]!r}"
            f" {unreadable[0][1]}."
        )
    return LoadedRow(empty_row(frame, config), Dropped(), tuple(unreadable))


def load_evaluation_row(
    source: Source, index: int, frame: Size, config: Any, resizing: Resizing
) -> LoadedRow:
    """An evaluation row; padding where there is no image or it is unreadable."""
    if index >= len(source):
        return LoadedRow(empty_row(frame, config), Dropped(), ())
    example = source[index]
    try:
        size = _known((example["height"], example["width"]))
        transform = Transform(still_placement(size, frame, resizing))
        row, dropped = make_row(example, transform, frame, config)
    except UnreadableImage as error:
        unreadable = ((example["file_name"], str(error)),)
        return LoadedRow(empty_row(frame, config), Dropped(), unreadable)
    return LoadedRow(row, dropped, ())


def _known(size: Size) -> Size:
    """The size, unless preparation could not find it out."""
    if min(size) < 1:
        raise UnreadableImage("could not be decoded when the data set was prepared")
    return size


def make_row(
    example: dict[str, Any],
    transform: Transform,
    frame: Size,
    config: Any,
    rng: np.random.Generator | None = None,
    labels: np.ndarray | None = None,
) -> tuple[dict[str, np.ndarray], Dropped]:
    """Decode, place and pad one example.

    Args:
      example: of `records.Source`.
      transform: what to do with it.
      frame: (H, W) of the result.
      config: section `data`. Of more objects than its max_boxes N, `rng` picks N at
        random, so that no kind is always the one left out.
      rng: None: the first N stay.
      labels: (h, w) of the example's pixels, if they are known.

    Returns:
      one row of Batch without the batch axis (image (H, W, 3), boxes (N, 4), ...), and
      how many objects were dropped.

    Raises:
      UnreadableImage: with the reason.
    """
    image = make_image(example["image"], transform, frame, example["turn"])
    return fill_row(image, example, transform, frame, config, rng, labels)


def make_image(
    data: bytes, transform: Transform, frame: Size, turn_code: int = 1
) -> np.ndarray:
    """Decode and place an image: (*frame, 3) uint8; UnreadableImage says why not."""
    placement = transform.placement
    divisor = jpeg_divisor(data, placement.size, placement.resized, turn_code)
    image = decode_image(data, placement.size, divisor, turn_code)
    if transform.colors is not None:
        image = transform.colors.apply(image)
    return placement.image(image, frame, divisor)


def fill_row(
    image: np.ndarray,
    example: dict[str, Any],
    transform: Transform,
    frame: Size,
    config: Any,
    rng: np.random.Generator | None = None,
    labels: np.ndarray | None = None,
) -> tuple[dict[str, np.ndarray], Dropped]:
    """`make_row` for an image that `make_image` made."""
    placement = transform.placement
    boxes, keep = placement.boxes(example["boxes"])
    if transform.centers is not None:
        keep &= transform.keeps(example["boxes"], example["crowd"])
    chosen = np.flatnonzero(keep)
    dropped = max(0, len(chosen) - config.max_boxes)
    if dropped and rng is not None:
        chosen = np.sort(rng.permutation(chosen)[: config.max_boxes])
    chosen = chosen[: config.max_boxes]
    masks, bare = None, 0
    if config.mask_size:
        bitmaps = unpack(example["masks"], example["boxes"])
        masks = placement.masks(
            [bitmaps[i] for i in chosen],
            example["boxes"][chosen],
            boxes[chosen],
            config.mask_size,
        )
        # It may have none, or a crop may leave a corner of its box without a pixel.
        seen = masks.any(axis=(1, 2))
        bare = int((~seen).sum())
        chosen, masks = chosen[seen], masks[seen]
    row = empty_row(frame, config, image)
    row["image_size"][:] = placement.window
    row["image_id"] = np.array(example["image_id"], np.int64)
    row["boxes"][: len(chosen)] = boxes[chosen]
    row["classes"][: len(chosen)] = example["classes"][chosen]
    row["crowd"][: len(chosen)] = example["crowd"][chosen]
    row["valid"][: len(chosen)] = True
    if masks is not None:
        row["masks"][: len(chosen)] = masks
    if config.semantic != "none":
        if labels is None:
            labels = labels_of(example, config.semantic)
        row["semantic"] = placement.labels(labels, frame, config.semantic_stride)
    return row, Dropped(dropped, bare)


def empty_row(
    frame: Size, config: Any, image: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """A row of padding: image_id -1, black, no box valid, no label to learn."""
    count, side = config.max_boxes, config.mask_size
    row = {
        "image": np.zeros((*frame, 3), np.uint8) if image is None else image,
        "image_size": np.array(frame, np.int32),
        "image_id": np.array(-1, np.int64),
        "boxes": np.zeros((count, 4), np.float32),
        "classes": np.zeros(count, np.int32),
        "valid": np.zeros(count, bool),
        "crowd": np.zeros(count, bool),
    }
    if side:
        row["masks"] = np.zeros((count, side, side), np.uint8)
    if config.semantic != "none":
        cells = tuple(edge // config.semantic_stride for edge in frame)
        row["semantic"] = np.full(cells, IGNORE, np.int32)
    return row


def check_config(config: Any, frame: Size) -> Augmentation:
    """What section `data` says of augmentation, after a look at all of its ranges.

    Raises:
      DataError: names the key that cannot be used.
    """
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
        *ranges_of_augmentation(config),
    ):
        if not good:
            raise DataError(f"config.data.{key} is {getattr(config, key)}; it {rule}.")
    if config.semantic != "none" and any(s % config.semantic_stride for s in frame):
        raise DataError(
            f"image_size {frame} is no multiple of config.data.semantic_stride ="
            f" {config.semantic_stride}."
        )
    return Augmentation.of(config)
