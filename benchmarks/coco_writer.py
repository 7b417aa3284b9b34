"""Write small COCO folders: what benchmarks measure on, and tests read."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np


def flat_png(height: int, width: int, grey: int) -> bytes:
    """An encoded image of one grey level."""
    image = np.full((height, width, 3), grey, np.uint8)
    return cv2.imencode(".png", image)[1].tobytes()


def coco_content(
    images: Sequence[tuple[str, int, int]],
    objects: Sequence[tuple[int, Sequence[float]]],
    category: tuple[int, str] = (1, "thing"),
    segmentations: Sequence[Any] = (),
) -> dict[str, Any]:
    """A COCO dictionary of one category.

    Args:
      images: file name, height and width of each; their ids count from 1.
      objects: image id and x y width height of each; their ids count from 1.
      category: id and name.
      segmentations: of the objects, polygons or run lengths; (): they have none.
    """
    annotations = [
        {
            "id": number,
            "image_id": image_id,
            "category_id": category[0],
            "bbox": list(box),
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for number, (image_id, box) in enumerate(objects, 1)
    ]
    if segmentations:
        for entry, segmentation in zip(annotations, segmentations, strict=True):
            entry["segmentation"] = segmentation
    return {
        "images": [
            {"id": number, "file_name": name, "height": height, "width": width}
            for number, (name, height, width) in enumerate(images, 1)
        ],
        "annotations": annotations,
        "categories": [{"id": category[0], "name": category[1]}],
    }


def write_split(
    annotation_file: Path,
    image_folder: Path,
    content: Mapping[str, Any],
    pictures: Mapping[str, bytes],
) -> None:
    """Write an annotation file and the encoded images that belong to it.

    Args:
      annotation_file, image_folder: where; folders are made.
      content: in COCO's form.
      pictures: file name -> encoded image. Names that are in no entry are written too,
        and entries without a picture stay without a file.
    """
    image_folder.mkdir(parents=True, exist_ok=True)
    for name, data in pictures.items():
        path = image_folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    annotation_file.parent.mkdir(parents=True, exist_ok=True)
    annotation_file.write_text(json.dumps(content))
