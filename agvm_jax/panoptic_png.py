"""Segment ids as the pixels of a PNG, as COCO's panoptic format has them.

Each pixel's segment id is R + 256 G + 65536 B; 0 is void.
"""

import os

import numpy as np
from PIL import Image


def ids_of_colors(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3 or more) uint8 red, green, blue -> (H, W) int32 segment ids."""
    red, green, blue = (pixels[..., c].astype(np.int32) for c in range(3))
    return red + 256 * green + 65536 * blue


def colors_of_ids(ids: np.ndarray) -> np.ndarray:
    """(H, W) ids in 0 .. 2**24 - 1 -> (H, W, 3) uint8 red, green, blue."""
    bytes_ = np.ascontiguousarray(ids.astype("<u4"))[..., None].view(np.uint8)
    return np.ascontiguousarray(bytes_[..., :3])


def read_panoptic_png(path: str | os.PathLike[str]) -> np.ndarray:
    """Return the (H, W) int32 segment ids of a file, 0 for void.

    Raises:
      ValueError: the file cannot be read, or is no 8-bit RGB image.
    """
    try:
        with Image.open(path) as image:
            mode, pixels = image.mode, np.asarray(image)
    except OSError as error:  # absent, damaged, or no image
        raise ValueError(f"{path} cannot be read: {error}") from None
    if mode not in ("RGB", "RGBA"):
        raise ValueError(f"{path} is a {mode} image; panoptic labels are 8-bit RGB")
    return ids_of_colors(pixels)


def write_panoptic_png(path: str | os.PathLike[str], segments: np.ndarray) -> None:
    """Write (H, W) segment ids in 0 .. 2**24 - 1.

    Raises:
      ValueError: an id does not fit into three bytes.
    """
    if segments.min(initial=0) < 0 or segments.max(initial=0) >= 1 << 24:
        raise ValueError(
            f"segment ids {segments.min()}..{segments.max()} do not fit in three bytes"
        )
    Image.fromarray(colors_of_ids(segments)).save(path, "PNG")
