"""Images from anywhere to rows of a batch, by the same steps as in evaluation."""

import dataclasses
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agvm_jax.data.annotations.errors import DataError, UnreadableImage
from agvm_jax.data.augment.augmentation import Resizing, Transform, still_placement
from agvm_jax.data.augment.decode import IMAGES, Head, Size, decode_image, read_head
from agvm_jax.data.example import make_image
from agvm_jax.data.order import oriented
from agvm_jax.inference.card import ModelCard
from agvm_jax.structures import Batch

Image = str | os.PathLike[str] | np.ndarray | Any


@dataclasses.dataclass(frozen=True)
class Opened:
    """An image before it is resized.

    Attributes:
      name: its path as it was given; "" for an array.
      size: height and width of it, turned if it has to be.
      data: the encoded bytes; None for an array.
      turn: for `decode.decode_image`.
      pixels: (H, W, 3) uint8 RGB of an array; None for a file.
    """

    name: str
    size: Size
    data: bytes | None = None
    turn: int = 1
    pixels: np.ndarray | None = None

    def image(self) -> np.ndarray:
        """Returns the whole image, (H, W, 3) uint8 RGB."""
        if self.pixels is not None:
            return self.pixels
        return decode_image(self.data, self.size, turn_code=self.turn)


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a batch.

    Attributes:
      image: (H, W, 3) uint8, the image in its top left corner.
      window: height and width of the image in it.
    """

    image: np.ndarray
    window: Size


def open_image(source: Image, exif: bool) -> Opened:
    """Opens a file, or takes an array.

    Args:
      source: a path; or what NumPy makes an array of: (H, W, 3) or (H, W, 4) RGB, or
        (H, W) grey, uint8. An alpha channel is left out.
      exif: whether a file is turned as its EXIF data say.

    Raises:
      UnreadableImage: a file that is absent or no image; the message names it.
      ValueError: an array of another kind.
    """
    if not isinstance(source, str | os.PathLike):
        pixels = _rgb(np.asarray(source))
        return Opened("", pixels.shape[:2], pixels=pixels)
    name = os.fspath(source)
    try:
        data = Path(name).expanduser().read_bytes()
    except OSError as error:
        raise UnreadableImage(f"{name} cannot be read: {error.strerror}.") from error
    head = read_head(io.BytesIO(data))
    if head is None:
        # Pillow knows fewer kinds than OpenCV, which has the last word.
        try:
            head = Head(decode_image(data, (0, 0)).shape[:2])
        except UnreadableImage as error:
            raise UnreadableImage(f"{name} {error}.") from error
    return Opened(name, head.seen(exif), data, head.turn(exif))


def _rgb(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or not array.size:
        raise ValueError(
            f"an image is a path or an (H, W, 3) uint8 RGB array, not an array of shape"
            f" {array.shape} and {array.dtype}; fractions in 0 .. 1 are multiplied by"
            " 255 first."
        )
    if array.ndim == 2:
        return np.repeat(array[..., None], 3, axis=-1)
    if array.shape[-1] not in (3, 4):
        raise ValueError(
            f"an image is (H, W, 3) RGB, not {array.shape}: channels come last."
        )
    return np.ascontiguousarray(array[..., :3])


def frame_for(size: Size, card: ModelCard) -> Size:
    """Returns (height, width) of the padded input of an image of this size."""
    if card.turned_frame:
        return oriented(card.image_size, size)
    return tuple(card.image_size)


def frames_of(card: ModelCard) -> list[Size]:
    """Returns (height, width) of every padded input that a model gets."""
    return sorted({frame_for(size, card) for size in ((1, 2), (2, 1))})


def make_row(opened: Opened, card: ModelCard) -> Row:
    """Resizes and pads an image as evaluation does.

    Raises:
      UnreadableImage: it cannot be decoded; the message names it.
    """
    frame = frame_for(opened.size, card)
    short_sides = (card.short_side,) if card.short_side else ()
    resizing = Resizing(short_sides, card.long_side)
    placement = still_placement(opened.size, frame, resizing)
    if opened.pixels is not None:
        return Row(placement.image(opened.pixels, frame), placement.window)
    try:
        image = make_image(opened.data, Transform(placement), frame, opened.turn)
    except UnreadableImage as error:
        raise UnreadableImage(f"{opened.name} {error}.") from error
    return Row(image, placement.window)


def stack(rows: Sequence[Row], count: int) -> Batch:
    """Makes a batch of ``count`` rows; those that are missing are padding images."""
    frame = rows[0].image.shape
    image = np.zeros((count, *frame), np.uint8)
    size = np.full((count, 2), frame[:2], np.int32)
    for i, row in enumerate(rows):
        image[i], size[i] = row.image, row.window
    ids = np.where(np.arange(count) < len(rows), np.arange(count), -1)
    return bare_batch(image, size, ids.astype(np.int32))


def bare_batch(image: Any, image_size: Any, image_id: Any, numpy: Any = np) -> Batch:
    """Makes a batch without annotations, of which prediction looks at none.

    Args:
      image, image_size, image_id: as `Batch` has them.
      numpy: NumPy, or jax.numpy where a batch is traced.
    """
    count = image.shape[0]
    return Batch(
        image=image,
        image_size=image_size,
        image_id=image_id,
        boxes=numpy.zeros((count, 1, 4), numpy.float32),
        classes=numpy.zeros((count, 1), numpy.int32),
        valid=numpy.zeros((count, 1), bool),
        crowd=numpy.zeros((count, 1), bool),
    )


def find_images(place: str | os.PathLike[str]) -> list[Path]:
    """Returns an image file, or those of a folder and its folders, by name.

    Raises:
      DataError: there is no such file or folder, or no image in it.
    """
    path = Path(place).expanduser()
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"there is no file or folder {path}.")
    found = sorted(_images_in(path.rglob("*")))
    if not found:
        raise DataError(
            f"there is no image in {path}: names of images end in"
            f" {', '.join(sorted(IMAGES))}."
        )
    return found


def _images_in(paths: Iterable[Path]) -> Iterable[Path]:
    for path in paths:
        if path.suffix.lower() in IMAGES and not path.name.startswith("."):
            yield path
