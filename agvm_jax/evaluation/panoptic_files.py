"""COCO's panoptic JSON and PNG.

Each pixel's segment id is R + 256 G + 65536 B.
"""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from PIL import Image


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
    pixels = pixels[..., :3].astype(np.int32)
    return pixels @ np.array([1, 256, 65536], np.int32)


def write_panoptic_png(path: str | os.PathLike[str], segments: np.ndarray) -> None:
    """Write (H, W) segment ids in 0 .. 2**24 - 1.

    Raises:
      ValueError: an id does not fit into three bytes.
    """
    if segments.min(initial=0) < 0 or segments.max(initial=0) >= 1 << 24:
        raise ValueError(
            f"segment ids {segments.min()}..{segments.max()} do not fit in three bytes"
        )
    shifts = np.array([0, 8, 16])
    pixels = (segments[..., None].astype(np.int64) >> shifts) & 255
    Image.fromarray(pixels.astype(np.uint8)).save(path, "PNG")


def index_panoptic(
    content: Mapping[str, Any], wanted: Iterable[int]
) -> tuple[dict[int, Mapping[str, Any]], dict[int, Mapping[str, Any]]]:
    """Return category id -> category and image id -> annotation.

    Args:
      content: a COCO panoptic dictionary.
      wanted: category ids that must be in it.

    Raises:
      ValueError: something is missing, repeated, or of an unknown category.
    """
    for key in ("annotations", "categories"):
        if key not in content:
            raise ValueError(f"the ground truth has no {key!r}: is it panoptic COCO?")
    categories = {c["id"]: c for c in content["categories"]}
    absent = [c for c in wanted if c not in categories]
    if absent:
        raise ValueError(f"the ground truth has no category {absent}")
    annotations = {a["image_id"]: a for a in content["annotations"]}
    if len(annotations) != len(content["annotations"]):
        raise ValueError("the ground truth has two annotations for one image")
    for annotation in annotations.values():
        for segment in annotation["segments_info"]:
            if segment["category_id"] not in categories:
                raise ValueError(
                    f"{annotation['file_name']}: segment {segment['id']} has the "
                    f"unknown category {segment['category_id']}"
                )
    return categories, annotations
