"""Encoded images: which way up they are, and their pixels in RGB.

A camera that is held sideways stores its pixels as they come and notes how to turn
them (EXIF). Viewers and some annotation tools obey the note, others ignore it, and
boxes are right for one of the two images only. Which one is decided once, when a set is
prepared (`decide_turns`), and holds for every later look at its images.
"""

import contextlib
import dataclasses
import enum
import pathlib
import warnings
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import cv2
import numpy as np
from PIL import ExifTags, Image

from agvm_jax.data.annotations.errors import DataError, UnreadableImage

Size = tuple[int, int]  # (height, width)


class Annotated(enum.Enum):
    """Of which image a format's annotations are, where a stated size does not tell.

    TURNED: of the one that is turned as EXIF says. STORED: of the pixels as they are
    stored. LIKE_OTHERS: of the same as in most images of the split whose size does
    tell; STORED where none does.
    """

    TURNED = "turned"
    STORED = "stored"
    LIKE_OTHERS = "like others"

    @classmethod
    def of(cls, exif_turns: str, usual: "Annotated") -> "Annotated":
        """From config.data.exif_turns, and what is usual in a format.

        Raises:
          DataError: the key has no such value.
        """
        known = {"auto": usual, "applied": cls.TURNED, "ignored": cls.STORED}
        if exif_turns not in known:
            raise DataError(
                f"config.data.exif_turns is {exif_turns!r}; it must be"
                f" {', '.join(known)}."
            )
        return known[exif_turns]


@dataclasses.dataclass(frozen=True)
class Head:
    """What the head of an image file says.

    Attributes:
      size: height and width as stored.
      orientation: EXIF's, 1 to 8; 1 is upright.
      decoded_turned: whether OpenCV turns the image whatever it is asked (TIFF).
    """

    size: Size
    orientation: int = 1
    decoded_turned: bool = False

    def seen(self, turned: bool) -> Size:
        """Height and width, as turned or as stored."""
        return self.size[::-1] if turned and self.orientation >= 5 else self.size

    def turn(self, turned: bool) -> int:
        """What `turn` has to do to a decoded image to have it turned, or stored."""
        if self.decoded_turned:
            # Undone, where it is unwanted: 6 and 8 undo each other.
            return 1 if turned else {6: 8, 8: 6}.get(self.orientation, self.orientation)
        return self.orientation if turned else 1


@dataclasses.dataclass(frozen=True, eq=False)
class Turns:
    """What to do with the images of a split.

    Attributes:
      codes: (I,) int64, for `turn`, of each decoded image.
      sizes: (I, 2) int64, height and width after it; zeros where unknown.
      seen: (I, 2) int64, the same by the images alone, whatever annotations state;
        zeros of one that cannot be read.
      turned: (I,) bool, whose EXIF orientation is obeyed.
      unturned: (I,) bool, who have one and are used as they are stored.
    """

    codes: np.ndarray
    sizes: np.ndarray
    seen: np.ndarray
    turned: np.ndarray
    unturned: np.ndarray

    def select(self, indices: np.ndarray) -> "Turns":
        """Those of the images at `indices`."""
        columns = (self.codes, self.sizes, self.seen, self.turned, self.unturned)
        return Turns(*(column[indices] for column in columns))


@contextlib.contextmanager
def opened(file: pathlib.Path | BinaryIO) -> Iterator[Image.Image]:
    """The image, its pixels not yet read.

    Satellite images pass Pillow's limit, which guards against files that a stranger
    sends; these are the user's own. Not for several threads: warnings and the limit are
    the process's.
    """
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damaged EXIF data, for one
            with Image.open(file) as image:
                yield image
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def read_head(file: pathlib.Path | BinaryIO) -> Head | None:
    """The size and orientation of an image; None where it is none.

    Only the head is read: an image that is damaged further on has one.
    """
    try:
        with opened(file) as image:
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            width, height = image.size
            tiff = image.format == "TIFF"
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
    return Turns(np.ones(len(sizes), np.int64), sizes, sizes, none, none)


def decide_turns(
    files: Iterable[pathlib.Path], sizes: np.ndarray, annotated: Annotated
) -> Turns:
    """Which images the annotations of a split are of.

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
    seen = np.array(seen, np.int64).reshape(-1, 2)
    return Turns(
        codes=np.array(
            [head.turn(o) for head, o in zip(heads, obeyed.tolist(), strict=True)],
            np.int64,
        ),
        sizes=np.where((sizes == 0).any(axis=1, keepdims=True), seen, sizes),
        seen=seen,
        turned=oriented & obeyed,
        unturned=oriented & ~obeyed,
    )


def turn(image: np.ndarray, code: int) -> np.ndarray:
    """Turn an image (h, w, ...) as EXIF's orientation `code`, 1 to 8, asks for."""
    if code >= 5:
        image = cv2.transpose(image)
    mirror = _FLIPS[code]
    return image if mirror is None else cv2.flip(image, mirror)


# cv2.flip after the sides were swapped, for 5 to 8: 1 left to right, 0 upside down, -1
# both.
_FLIPS = {1: None, 2: 1, 3: -1, 4: 0, 5: None, 6: 1, 7: -1, 8: 0}


# Endings of files that are taken for images where a folder is all there is to go by.
IMAGES = {
    *(".jpg", ".jpeg", ".mpo", ".png", ".bmp", ".webp", ".tif", ".tiff"),
    *(".jp2", ".avif"),
}


def decode_image(
    data: bytes, size: Size, divisor: int = 1, turn_code: int = 1
) -> np.ndarray:
    """Decode an image to RGB.

    Grey-scale, 16-bit, palette, CMYK and alpha all come out as 8-bit RGB. The
    orientation in the EXIF data is not looked at: whether boxes are of the turned
    image was decided when the set was prepared (`decide_turns`), and `turn_code`
    says it.

    Args:
      data: the encoded bytes.
      size: what the annotations say; (0, 0) accepts any.
      divisor: of `jpeg_divisor`.
      turn_code: how to turn the decoded image, `turn` of a record.

    Returns:
      (h, w, 3) uint8, where (h, w) is `size` divided by the divisor, rounded up.

    Raises:
      UnreadableImage: with the reason.
    """
    check_whole(data)
    image = _imdecode(data, _REDUCED[divisor] | cv2.IMREAD_IGNORE_ORIENTATION)
    image = turn(image, turn_code)
    expected = tuple(-(-side // divisor) for side in size)
    if min(size) > 0 and image.shape[:2] != expected:
        height, width = image.shape[:2]
        raise UnreadableImage(
            f"is {width}x{height} where its annotations say {size[1]}x{size[0]}"
            if divisor == 1
            else f"is not {size[1]}x{size[0]} as its annotations say"
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_JPEG = b"\xff\xd8"
_PNG = b"\x89PNG"


def jpeg_divisor(data: bytes, size: Size, at_least: Size, turn_code: int = 1) -> int:
    """How much smaller an image may be decoded and still be `at_least` so large.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size with four to sixty-four times less
    work, and a better reduction than sampling. Other formats give 1.

    Where a side is no multiple of the divisor, the last decoded pixel stands for fewer
    of the image's. `Placement` knows; but of an image that is turned it may become
    the first, so there the divisor divides both sides.
    """
    if data.startswith(_JPEG):
        for divisor in (8, 4, 2):
            if turn_code != 1 and any(side % divisor for side in size):
                continue
            if all(a >= b * divisor for a, b in zip(size, at_least, strict=True)):
                return divisor
    return 1


def check_whole(data: bytes) -> None:
    """Raise for truncated JPEG and PNG, whose lost part OpenCV would paint grey."""
    if data.startswith(_JPEG):
        # Inside the scan an FF byte is never followed by D9 or DA, so the last scan of
        # a whole file is followed by an end marker, whatever a camera appends after it.
        whole = data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
    elif data.startswith(_PNG):
        whole = b"IEND" in data[-64:]
    else:
        whole = len(data) > 0
    if not whole:
        raise UnreadableImage("is truncated" if data else "is an empty file")


def _imdecode(data: bytes, flags: int) -> np.ndarray:
    """cv2.imdecode, with one kind of failure."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise UnreadableImage(f"cannot be decoded ({error.err})") from None
    if image is None:
        raise UnreadableImage("cannot be decoded: it is damaged or no image at all")
    return image
