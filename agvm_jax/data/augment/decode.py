"""Decode images of any kind to RGB, smaller where that is enough."""

import cv2
import numpy as np

from agvm_jax.data.annotations.errors import UnreadableImage
from agvm_jax.data.augment.exif import Size, turn

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
    picture was decided when the set was prepared (`exif`), and `turn_code` says it.

    Args:
      data: the encoded bytes.
      size: what the annotations say; (0, 0) accepts any.
      divisor: of `jpeg_divisor`.
      turn_code: how to turn the decoded picture, `turn` of a record.

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
    of the picture's. `Placement` knows; but of a picture that is turned it may become
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
