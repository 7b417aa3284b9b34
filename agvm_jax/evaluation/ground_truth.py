"""The ground truth of an evaluation: a COCO dictionary, checked and put in columns."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import hotcoco
import numpy as np


@dataclasses.dataclass(frozen=True)
class GroundTruth:
    """What evaluators need of a COCO dictionary.

    Attributes:
      coco: hotcoco's index of it, with the categories in question only.
      sizes: image id -> (height, width) of the original picture.
      file_names: image id -> file name, "" where the dictionary has none.
      image_ids: (G,) int64, the image of each annotation.
      boxes: (G, 4) float64, x y w h in original pixels, as COCO writes them.
      classes: (G,) int64, 0..K-1.
      crowd: (G,) bool.
    """

    coco: hotcoco.COCO
    sizes: dict[int, tuple[int, int]]
    file_names: dict[int, str]
    image_ids: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray


def read_ground_truth(
    dictionary: Mapping[str, Any],
    category_ids: Sequence[int],
    class_names: Sequence[str],
    segmentations: bool = False,
) -> GroundTruth:
    """Check a COCO dictionary and index it, with its masks if `segmentations`.

    Annotations are numbered anew, 1..G in their own order: pycocotools takes an
    annotation with id 0 for unmatched, and data sets exist that repeat ids. A missing
    `area` is the box's, a missing `iscrowd` is 0. `ignore` is not read, as pycocotools
    overwrites it.

    Raises:
      ValueError: something is missing, repeated or not finite, or an annotation names
        an image or category that is not listed. The message names the annotation.
    """
    for key in ("images", "annotations", "categories"):
        if key not in dictionary:
            raise ValueError(f"the ground truth has no {key!r}: is it COCO format?")
    sizes, file_names = {}, {}
    for image in dictionary["images"]:
        if any(key not in image for key in ("id", "height", "width")):
            raise ValueError(
                f"the ground truth's image {image.get('id', image)!r} needs id, height "
                "and width"
            )
        if image["id"] in sizes:
            raise ValueError(f"the ground truth lists image id {image['id']} twice")
        sizes[image["id"]] = (image["height"], image["width"])
        file_names[image["id"]] = str(image.get("file_name", ""))

    listed = {category["id"] for category in dictionary["categories"]}
    absent = [c for c in category_ids if c not in listed]
    if absent:
        raise ValueError(
            f"the ground truth has no category {absent}; it has {sorted(listed)}"
        )
    class_of = {c: k for k, c in enumerate(category_ids)}
    kept = []
    for annotation in dictionary["annotations"]:
        for key in ("image_id", "category_id", "bbox"):
            if key not in annotation:
                raise ValueError(f"annotation {annotation.get('id')} has no {key!r}")
        if annotation["category_id"] not in listed or (
            annotation["image_id"] not in sizes
        ):
            raise ValueError(
                f"annotation {annotation.get('id')} names image "
                f"{annotation['image_id']} and category {annotation['category_id']}; "
                "one of them is not listed in the ground truth"
            )
        if annotation["category_id"] in class_of:
            kept.append(annotation)

    for a in kept:
        if len(a["bbox"]) != 4 or not all(math.isfinite(x) for x in a["bbox"]):
            raise ValueError(
                f"annotation {a.get('id')}: bbox {a['bbox']} is not four finite numbers"
            )
    boxes = np.array([a["bbox"] for a in kept], np.float64).reshape(-1, 4)
    area = [a.get("area", b[2] * b[3]) for a, b in zip(kept, boxes, strict=True)]
    crowd = np.array([bool(a.get("iscrowd", 0)) for a in kept], bool)
    image_ids = np.array([a["image_id"] for a in kept], np.int64)
    categories = np.array([a["category_id"] for a in kept], np.int64)
    coco = hotcoco.COCO.from_arrays(
        [{"id": i, "height": h, "width": w} for i, (h, w) in sizes.items()],
        [
            {"id": c, "name": name}
            for c, name in sorted(zip(category_ids, class_names, strict=True))
        ],
        image_ids,
        categories,
        boxes,
        area=np.array(area, np.float64),
        iscrowd=crowd.astype(np.int64),
        segmentation=[_segmentation(a, sizes) for a in kept] if segmentations else None,
    )
    return GroundTruth(
        coco=coco,
        sizes=sizes,
        file_names=file_names,
        image_ids=image_ids,
        boxes=boxes,
        classes=np.array([class_of[c] for c in categories.tolist()], np.int64),
        crowd=crowd,
    )


def _segmentation(annotation: Mapping[str, Any], sizes: Mapping[int, tuple]) -> Any:
    """The annotation's polygons or RLE, checked; hotcoco reads both."""
    name = f"annotation {annotation.get('id')}"
    segmentation = annotation.get("segmentation")
    size = list(sizes[annotation["image_id"]])
    if isinstance(segmentation, Mapping):
        if list(segmentation.get("size", ())) != size or "counts" not in segmentation:
            raise ValueError(
                f"{name}: an RLE of size {segmentation.get('size')}, but its image has "
                f"height and width {size}"
            )
        return dict(segmentation)
    if not segmentation:
        raise ValueError(f"{name} has no segmentation, which mask AP needs")
    for polygon in segmentation:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(
                f"{name}: a polygon of {len(polygon)} numbers; three points or more "
                "are needed, x and y of each"
            )
    return segmentation
