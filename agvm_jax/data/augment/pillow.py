"""Open an image file with Pillow, whatever its size, and without its warnings."""

import contextlib
import pathlib
import warnings
from collections.abc import Iterator
from typing import BinaryIO

from PIL import Image


@contextlib.contextmanager
def opened(file: pathlib.Path | BinaryIO) -> Iterator[Image.Image]:
    """The image, its pixels not yet read.

    Satellite pictures pass Pillow's limit, which guards against files that a stranger
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
