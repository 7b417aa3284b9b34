"""Decode images of any kind to RGB, smaller where that is enough."""

import cv2
import numpy as np

from agvm_jax.data.errors import UnreadableImage

Size = tuple[int, int]  # (height, width)
# Endings of files that are taken for images where a folder is all there is to go by.
IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def decode_image(data: bytes, size: Size, divisor: int = 1) -> np.ndarray:
    """Decode an image to RGB.

    Grey-scale, 16-bit, palette, CMYK and alpha all come out as 8-bit RGB. The
    orientation in the EXIF data is ignored, as COCO's tools do, unless the stored size
    contradicts the annotations and the rotated one agrees: boxes belong to the
    picture that their annotator saw.

    Args:
      data: the encoded bytes.
      size: what the annotations say; (0, 0) accepts any.
      divisor: of `jpeg_divisor`.

    Returns:
      (h, w, 3) uint8, where (h, w) is `size` divided by the divisor, rounded up.

    Raises:
      UnreadableImage: with the reason.
    """
    check_whole(data)
    image = _imdecode(data, _REDUCED[divisor] | cv2.IMREAD_IGNORE_ORIENTATION)
    expected = tuple(-(-side // divisor) for side in size)
    if min(size) > 0 and image.shape[:2] != expected:
        turned = _imdecode(data, _REDUCED[divisor])
        if turned.shape[:2] != expected:
            height, width = image.shape[:2]
            raise UnreadableImage(
                f"is {width}x{height} where its annotations say {size[1]}x{size[0]}"
                if divisor == 1
                else f"is not {size[1]}x{size[0]} as its annotations say"
            )
        image = turned
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def stored_size(data: bytes, turned: bool = False) -> Size:
    """Height and width of an image; (0, 0) if it cannot be decoded.

    Args:
      data: the encoded bytes.
      turned: of the picture as its EXIF orientation shows it, not as it is stored.
    """
    try:
        check_whole(data)
        ignore = 0 if turned else cv2.IMREAD_IGNORE_ORIENTATION
        return _imdecode(data, cv2.IMREAD_COLOR | ignore).shape[:2]
    except UnreadableImage:
        return (0, 0)


_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_JPEG = b"\xff\xd8"
_PNG = b"\x89PNG"


def jpeg_divisor(data: bytes, size: Size, at_least: Size) -> int:
    """How much smaller an image may be decoded and still be `at_least` so large.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size with four to sixty-four times less
    work, and a better reduction than sampling. Other formats give 1.
    """
    if data.startswith(_JPEG):
        for divisor in (8, 4, 2):
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
