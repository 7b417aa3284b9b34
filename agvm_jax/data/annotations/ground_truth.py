"""A split's annotations as a COCO dictionary: what evaluators compare with."""

from typing import Any

import numpy as np

from agvm_jax.data.annotations.objects import Annotations, Segmentation


def coco_dictionary(annotations: Annotations, masks: bool = False) -> dict[str, Any]:
    """The split as a COCO dictionary, for evaluators.

    It holds the objects that `objects` keeps, their boxes as they were given.

    Args:
      masks: whether objects that lost their mask are left out, as they are where
        masks are learnt.
    """
    kept = annotations.have_area()
    if masks and annotations.lost_masks is not None:
        kept &= ~annotations.lost_masks
    rows = np.flatnonzero(kept)
    return {
        "images": [
            {"id": i, "file_name": name, "height": height, "width": width, **fields}
            for i, name, (height, width), fields in zip(
                annotations.image_ids.tolist(),
                annotations.file_names,
                annotations.sizes.tolist(),
                annotations.image_fields or [{}] * len(annotations),
                strict=True,
            )
        ],
        "annotations": [
            {
                "id": i,
                "image_id": image_id,
                "category_id": annotations.category_ids[k],
                "bbox": box,
                "area": area,
                "iscrowd": crowd,
            }
            | _segmentation_entry(annotations.segmentations[row])
            for row, i, image_id, k, box, area, crowd in zip(
                rows.tolist(),
                annotations.object_ids[rows].tolist(),
                annotations.image_ids[annotations.object_image[rows]].tolist(),
                annotations.object_class[rows].tolist(),
                annotations.boxes[rows].tolist(),
                annotations.areas[rows].tolist(),
                annotations.crowd[rows].astype(int).tolist(),
                strict=True,
            )
        ],
        "categories": [
            {"id": i, "name": name, **annotations.category_fields.get(i, {})}
            for i, name in zip(
                annotations.category_ids, annotations.class_names, strict=True
            )
        ],
    }


def _segmentation_entry(segmentation: Segmentation) -> dict[str, Any]:
    """The annotation's key for its mask, if it has one."""
    if segmentation is None:
        return {}
    if isinstance(segmentation, list):
        return {"segmentation": [polygon.tolist() for polygon in segmentation]}
    counts = segmentation["counts"].decode()  # text, as JSON needs it
    return {"segmentation": {"size": segmentation["size"], "counts": counts}}
