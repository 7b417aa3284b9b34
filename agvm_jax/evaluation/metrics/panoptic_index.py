"""The ground truth of panoptic quality: COCO's panoptic JSON, checked and indexed."""

from collections.abc import Iterable, Mapping
from typing import Any


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
