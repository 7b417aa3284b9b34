"""The ground truth of an evaluation: a COCO dictionary, checked and put in columns."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import hotcoco
import numpy as np
from jaxtyping import Bool, Float, Int

from agvm_jax.evaluation.metrics.federated import (
    Federated,
    is_federated,
    read_federated,
)
from agvm_jax.evaluation.metrics.true_masks import index_masks, read_masks

PROTOCOLS = ("auto", "coco", "lvis")


@dataclasses.dataclass(frozen=True)
class GroundTruth:
    """What evaluators need of a COCO dictionary.

    Attributes:
      coco: hotcoco's index of it, with the categories in question only.
      masks: the same with masks, or None. An object without one is a crowd region
        there, the pixels of its box: neither to be found nor wrong.
      sizes: image id -> (height, width) of the original image.
      file_names: image id -> file name, "" where the dictionary has none.
      image_ids: (G,) int64, the image of each annotation.
      boxes: (G, 4) float64, x y w h in original pixels, as COCO writes them.
      classes: (G,) int64, 0..K-1.
      crowd: (G,) bool.
      masked: (G,) bool, whether it has a mask; all True where none were asked for.
      short_polygons: how many polygons of fewer than three points were left out.
      federated: what LVIS adds, None where COCO's rules hold.
    """

    coco: hotcoco.COCO
    masks: hotcoco.COCO | None
    sizes: dict[int, tuple[int, int]]
    file_names: dict[int, str]
    image_ids: Int[np.ndarray, " G"]
    boxes: Float[np.ndarray, "G 4"]
    classes: Int[np.ndarray, " G"]
    crowd: Bool[np.ndarray, " G"]
    masked: Bool[np.ndarray, " G"]
    short_polygons: int
    federated: Federated | None

    @property
    def flat(self) -> Bool[np.ndarray, " G"]:
        """(G,) bool, boxes without area: nothing can match them, so they are missed."""
        return (self.boxes[:, 2:] <= 0).any(axis=1)


def read_ground_truth(
    dictionary: Mapping[str, Any],
    category_ids: Sequence[int],
    class_names: Sequence[str],
    segmentations: bool = False,
    protocol: str = "auto",
) -> GroundTruth:
    """Check a COCO dictionary and index it.

    Annotations are numbered anew, 1..G in their own order: pycocotools takes an
    annotation with id 0 for unmatched, and data sets exist that repeat ids. A missing
    `area` is the box's, a missing `iscrowd` is 0. `ignore` is not read, as pycocotools
    overwrites it. A box without area stays, and is missed, as in pycocotools.

    By LVIS' rules there are no crowds, and annotations of area 0 are left out.

    Args:
      dictionary: in COCO's format, or LVIS'.
      category_ids, class_names: of classes 0, 1, ... K-1.
      segmentations: whether masks are wanted.
      protocol: whose rules hold, "coco" or "lvis"; "auto": LVIS' where images list
        `neg_category_ids` or `not_exhaustive_category_ids`.

    Raises:
      ValueError: something is missing, repeated or not finite, an annotation names an
        image or category that is not listed, or masks are wanted and there is none at
        all. The message names the annotation.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol {protocol!r}: there are {', '.join(PROTOCOLS)}")
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
    images = [{"id": i, "height": h, "width": w} for i, (h, w) in sizes.items()]
    categories = [
        {"id": c, "name": name}
        for c, name in sorted(zip(category_ids, class_names, strict=True))
    ]
    federated = None
    if protocol == "auto":
        protocol = "lvis" if is_federated(dictionary["images"]) else "coco"
    if protocol == "lvis":
        federated = read_federated(dictionary, category_ids)
        images, categories = federated.extend(images, categories)

    class_of = {c: k for k, c in enumerate(category_ids)}
    kept = [a for a in dictionary["annotations"] if a["category_id"] in class_of]
    if federated:
        kept = [a for a in kept if _area(a) > 0]
    crowd = [not federated and bool(a.get("iscrowd", 0)) for a in kept]
    columns = {
        "image_ids": np.array([a["image_id"] for a in kept], np.int64),
        "category_ids": np.array([a["category_id"] for a in kept], np.int64),
        "boxes": np.array([a["bbox"] for a in kept], np.float64).reshape(-1, 4),
        "area": np.array([_area(a) for a in kept], np.float64),
        "iscrowd": np.array(crowd, bool),
    }
    masks, masked, short_polygons = None, np.ones(len(kept), bool), 0
    if segmentations:
        regions, masked, short_polygons = read_masks(kept, sizes)
        masks = index_masks(images, categories, columns, regions, masked)
    return GroundTruth(
        coco=hotcoco.COCO.from_arrays(images, categories, **columns),
        masks=masks,
        sizes=sizes,
        file_names=file_names,
        image_ids=columns["image_ids"],
        boxes=columns["boxes"],
        classes=np.array([class_of[a["category_id"]] for a in kept], np.int64),
        crowd=columns["iscrowd"],
        masked=masked,
        short_polygons=short_polygons,
        federated=federated,
    )


def _area(annotation: Mapping[str, Any]) -> float:
    """Of the mask, as it is told; else of the box."""
    width, height = annotation["bbox"][2:]
    return float(annotation.get("area", max(width, 0.0) * max(height, 0.0)))


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
