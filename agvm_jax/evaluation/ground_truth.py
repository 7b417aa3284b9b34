"""The ground truth of an evaluation: a COCO dictionary, checked and put in columns."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import hotcoco
import numpy as np

from agvm_jax.evaluation.true_masks import box_region, read_mask


@dataclasses.dataclass(frozen=True)
class GroundTruth:
    """What evaluators need of a COCO dictionary.

    Attributes:
      coco: hotcoco's index of it, with the categories in question only.
      masks: the same with masks, or None. An object without one is a crowd region
        there, the pixels of its box: neither to be found nor wrong.
      sizes: image id -> (height, width) of the original picture.
      file_names: image id -> file name, "" where the dictionary has none.
      image_ids: (G,) int64, the image of each annotation.
      boxes: (G, 4) float64, x y w h in original pixels, as COCO writes them.
      classes: (G,) int64, 0..K-1.
      crowd: (G,) bool.
      masked: (G,) bool, whether it has a mask; all True where none were asked for.
      short_polygons: how many polygons of fewer than three points were left out.
    """

    coco: hotcoco.COCO
    masks: hotcoco.COCO | None
    sizes: dict[int, tuple[int, int]]
    file_names: dict[int, str]
    image_ids: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    masked: np.ndarray
    short_polygons: int

    @property
    def flat(self) -> np.ndarray:
        """(G,) bool, boxes without area: nothing can match them, so they are missed."""
        return (self.boxes[:, 2:] <= 0).any(axis=1)


def read_ground_truth(
    dictionary: Mapping[str, Any],
    category_ids: Sequence[int],
    class_names: Sequence[str],
    segmentations: bool = False,
) -> GroundTruth:
    """Check a COCO dictionary and index it, with its masks too if `segmentations`.

    Annotations are numbered anew, 1..G in their own order: pycocotools takes an
    annotation with id 0 for unmatched, and data sets exist that repeat ids. A missing
    `area` is the box's, a missing `iscrowd` is 0. `ignore` is not read, as pycocotools
    overwrites it. A box without area stays, and is missed, as in pycocotools.

    Raises:
      ValueError: something is missing, repeated or not finite, an annotation names an
        image or category that is not listed, or masks are wanted and there is none at
        all. The message names the annotation.
    """
    for key in ("images", "annotations", "categories"):
        if key not in dictionary:
            raise ValueError(f"the ground truth has no {key!r}: is it COCO format?")
    sizes, file_names = _read_images(dictionary["images"])
    listed = {category["id"] for category in dictionary["categories"]}
    absent = [c for c in category_ids if c not in listed]
    if absent:
        raise ValueError(
            f"the ground truth has no category {absent}; it has {sorted(listed)}"
        )
    _check_annotations(dictionary["annotations"], sizes, listed)
    class_of = {c: k for k, c in enumerate(category_ids)}
    kept = [a for a in dictionary["annotations"] if a["category_id"] in class_of]
    boxes = np.array([a["bbox"] for a in kept], np.float64).reshape(-1, 4)
    own_areas = boxes[:, 2:].clip(0).prod(axis=1).tolist()
    crowd = np.array([bool(a.get("iscrowd", 0)) for a in kept], bool)
    columns = {
        "images": [{"id": i, "height": h, "width": w} for i, (h, w) in sizes.items()],
        "categories": [
            {"id": c, "name": name}
            for c, name in sorted(zip(category_ids, class_names, strict=True))
        ],
        "image_ids": np.array([a["image_id"] for a in kept], np.int64),
        "category_ids": np.array([a["category_id"] for a in kept], np.int64),
        "boxes": boxes,
        "area": np.array(
            [a.get("area", own) for a, own in zip(kept, own_areas, strict=True)],
            np.float64,
        ),
    }
    masks, masked, short_polygons = None, np.ones(len(kept), bool), 0
    if segmentations:
        regions, masked, short_polygons = _read_masks(kept, sizes)
        masks = hotcoco.COCO.from_arrays(
            **columns, iscrowd=(crowd | ~masked).astype(int), segmentation=regions
        )
    return GroundTruth(
        coco=hotcoco.COCO.from_arrays(**columns, iscrowd=crowd.astype(int)),
        masks=masks,
        sizes=sizes,
        file_names=file_names,
        image_ids=columns["image_ids"],
        boxes=boxes,
        classes=np.array([class_of[a["category_id"]] for a in kept], np.int64),
        crowd=crowd,
        masked=masked,
        short_polygons=short_polygons,
    )


def _read_images(
    images: Sequence[Mapping[str, Any]],
) -> tuple[dict[int, tuple[int, int]], dict[int, str]]:
    """Image id -> (height, width), and image id -> file name."""
    sizes, file_names = {}, {}
    for image in images:
        if any(key not in image for key in ("id", "height", "width")):
            raise ValueError(
                f"the ground truth's image {image.get('id', image)!r} needs id, height "
                "and width"
            )
        if image["id"] in sizes:
            raise ValueError(f"the ground truth lists image id {image['id']} twice")
        sizes[image["id"]] = (image["height"], image["width"])
        file_names[image["id"]] = str(image.get("file_name", ""))
    return sizes, file_names


def _check_annotations(
    annotations: Sequence[Mapping[str, Any]], images: Mapping[int, Any], listed: set
) -> None:
    for annotation in annotations:
        name = f"annotation {annotation.get('id')}"
        for key in ("image_id", "category_id", "bbox"):
            if key not in annotation:
                raise ValueError(f"{name} has no {key!r}")
        image_id, category_id = annotation["image_id"], annotation["category_id"]
        if category_id not in listed or image_id not in images:
            raise ValueError(
                f"{name} names image {image_id} and category {category_id}; one of "
                "them is not listed in the ground truth"
            )
        box = annotation["bbox"]
        if len(box) != 4 or not all(math.isfinite(x) for x in box):
            raise ValueError(f"{name}: bbox {box} is not four finite numbers")


def _read_masks(
    annotations: Sequence[Mapping[str, Any]], sizes: Mapping[int, tuple[int, int]]
) -> tuple[list[Any], np.ndarray, int]:
    """Each annotation's mask or box region, which it is, and polygons left out."""
    regions, masked, short_polygons = [], [], 0
    for annotation in annotations:
        size = sizes[annotation["image_id"]]
        mask, short = read_mask(annotation, size)
        regions.append(box_region(annotation["bbox"], size) if mask is None else mask)
        masked.append(mask is not None)
        short_polygons += short
    if annotations and not any(masked):
        raise ValueError(
            "no object of the ground truth has a segmentation, which mask AP needs"
        )
    return regions, np.array(masked, bool), short_polygons
