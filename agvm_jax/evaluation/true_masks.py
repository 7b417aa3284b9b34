"""The masks of a COCO ground truth: read, checked, and what has none set aside."""

from collections.abc import Mapping, Sequence
from typing import Any

import hotcoco

# Of an image whose size is not known: its file could not be read, so nothing is ever
# found there, and its objects are missed whatever their masks are.
_ANY_MASK = {"size": [1, 1], "counts": [1]}


def read_mask(
    annotation: Mapping[str, Any], size: tuple[int, int]
) -> tuple[Any | None, int]:
    """Return an annotation's mask as hotcoco reads it, and how many polygons it lost.

    Polygons of fewer than three points have no area and are left out; pycocotools
    would take one of two points for a box.

    Args:
      annotation: of a COCO dictionary.
      size: height and width of its image, zeros where they are not known.

    Returns:
      Polygons or run lengths, None where there is nothing of either; and a count.

    Raises:
      ValueError: run lengths of another size than the image, or an odd number of
        coordinates.
    """
    name = f"annotation {annotation.get('id')}"
    segmentation = annotation.get("segmentation")
    if not segmentation:  # absent, null, [] or {}
        return None, 0
    known = min(size) > 0
    if isinstance(segmentation, Mapping):
        own = list(segmentation.get("size", ()))
        if "counts" not in segmentation or (known and own != list(size)):
            raise ValueError(
                f"{name}: an RLE of size {segmentation.get('size')}, but its image has "
                f"height and width {list(size)}"
            )
        return dict(segmentation) if known else _ANY_MASK, 0
    polygons = []
    for polygon in segmentation:
        if len(polygon) % 2:
            raise ValueError(
                f"{name}: a polygon of {len(polygon)} numbers; each point needs x and y"
            )
        if len(polygon) >= 6:
            polygons.append(polygon)
    short = len(segmentation) - len(polygons)
    if polygons and not known:
        return _ANY_MASK, short
    return polygons or None, short


def box_region(box: Sequence[float], size: tuple[int, int]) -> Mapping[str, Any]:
    """Return run lengths of the pixels in a box x y w h, empty where it has no area."""
    if min(size) <= 0:
        return _ANY_MASK
    x, y, w, h = (float(side) for side in box)
    return hotcoco.mask.fr_bbox([x, y, max(w, 0.0), max(h, 0.0)], *size)
