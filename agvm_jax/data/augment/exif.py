"""Which way up a picture is: EXIF orientations, and whether annotations follow them.

A camera that is held sideways stores its pixels as they come and notes how to turn
them. Viewers and some annotation tools obey the note, others ignore it, and boxes are
right for one of the two pictures only. What is decided here, once, when a set is
prepared, holds for every later look at its images.
"""

import dataclasses
import enum
import pathlib
from collections.abc import Iterable
from typing import BinaryIO

import cv2
import numpy as np
from PIL import ExifTags

from agvm_jax.data.augment.pillow import opened

Size = tuple[int, int]  # (height, width)


class Annotated(enum.Enum):
    """Of which picture a format's annotations are, where a stated size does not tell.

    TURNED: of the one that is turned as EXIF says. STORED: of the pixels as they are
    stored. LIKE_OTHERS: of the same as in most images of the split whose size does
    tell; STORED where none does.
    """

    TURNED = "turned"
    STORED = "stored"
    LIKE_OTHERS = "like others"


@dataclasses.dataclass(frozen=True)
class Head:
    """What the head of an image file says.

    Attributes:
      size: height and width as stored.
      orientation: EXIF's, 1 to 8; 1 is upright.
      decoded_turned: whether OpenCV turns the picture whatever it is asked (TIFF).
    """

    size: Size
    orientation: int = 1
    decoded_turned: bool = False

    def seen(self, turned: bool) -> Size:
        """Height and width, as turned or as stored."""
        return self.size[::-1] if turned and self.orientation >= 5 else self.size

    def turn(self, turned: bool) -> int:
        """What `turn` has to do to a decoded picture to have it turned, or stored."""
        if self.decoded_turned:
            # Undone, where it is unwanted: 6 and 8 undo each other.
            return 1 if turned else {6: 8, 8: 6}.get(self.orientation, self.orientation)
        return self.orientation if turned else 1


@dataclasses.dataclass(frozen=True, eq=False)
class Turns:
    """What to do with the images of a split.

    Attributes:
      codes: (I,) int64, for `turn`, of each decoded picture.
      sizes: (I, 2) int64, height and width after it; zeros where unknown.
      turned: (I,) bool, whose EXIF orientation is obeyed.
      unturned: (I,) bool, who have one and are used as they are stored.
    """

    codes: np.ndarray
    sizes: np.ndarray
    turned: np.ndarray
    unturned: np.ndarray

    def select(self, indices: np.ndarray) -> "Turns":
        """Those of the images at `indices`."""
        columns = (self.codes, self.sizes, self.turned, self.unturned)
        return Turns(*(column[indices] for column in columns))


def read_head(file: pathlib.Path | BinaryIO) -> Head | None:
    """The size and orientation of an image; None where it is none.

    Only the head is read: a picture that is damaged further on has one.
    """
    try:
        with opened(file) as picture:
            orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
            width, height = picture.size
            tiff = picture.format == "TIFF"
    except Exception:  # Pillow raises a dozen kinds for what is no image
        return None
    if orientation not in range(1, 9):
        orientation = 1
    # Pillow turns a TIFF as OpenCV does, and has its turned size.
    size = (width, height) if tiff and orientation >= 5 else (height, width)
    return Head(size, orientation, tiff)


def no_turns(sizes: np.ndarray) -> Turns:
    """Every image of (I, 2) sizes as it is."""
    none = np.zeros(len(sizes), bool)
    return Turns(np.ones(len(sizes), np.int64), sizes, none, none)


def decide_turns(
    files: Iterable[pathlib.Path], sizes: np.ndarray, annotated: Annotated
) -> Turns:
    """Which pictures the annotations of a split are of.

    A stated size that fits an image in one way only, turned or stored, decides for it.

    Args:
      files: I images, of which the heads are read.
      sizes: (I, 2) height and width that the annotations state; zeros where they do
        not.
      annotated: what holds where the size does not tell.
    """
    heads = [read_head(file) or Head((0, 0)) for file in files]
    fits = []  # of each image with an orientation: does its size tell, and what
    for head, size in zip(heads, sizes.tolist(), strict=True):
        stored, turned = (list(head.seen(t)) == size for t in (False, True))
        fits.append(turned if stored != turned else None)
    rest = annotated is Annotated.TURNED
    if annotated is Annotated.LIKE_OTHERS:
        rest = fits.count(True) > fits.count(False)
    obeyed = np.array([rest if fit is None else fit for fit in fits], bool)
    oriented = np.array([head.orientation > 1 for head in heads], bool)
    seen = [head.seen(o) for head, o in zip(heads, obeyed.tolist(), strict=True)]
    return Turns(
        codes=np.array(
            [head.turn(o) for head, o in zip(heads, obeyed.tolist(), strict=True)],
            np.int64,
        ),
        sizes=np.where(
            (sizes == 0).any(axis=1, keepdims=True),
            np.array(seen, np.int64).reshape(-1, 2),
            sizes,
        ),
        turned=oriented & obeyed,
        unturned=oriented & ~obeyed,
    )


def turn(image: np.ndarray, code: int) -> np.ndarray:
    """Turn a picture (h, w, ...) as EXIF's orientation `code`, 1 to 8, asks for."""
    if code >= 5:
        image = cv2.transpose(image)
    mirror = _FLIPS[code]
    return image if mirror is None else cv2.flip(image, mirror)


# cv2.flip after the sides were swapped, for 5 to 8: 1 left to right, 0 upside down, -1
# both.
_FLIPS = {1: None, 2: 1, 3: -1, 4: 0, 5: None, 6: 1, 7: -1, 8: 0}
