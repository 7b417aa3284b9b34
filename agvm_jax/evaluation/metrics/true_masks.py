"""The masks of a COCO ground truth: read, checked, and what has none set aside."""

from collections.abc import Mapping, Sequence
from typing import Any

import hotcoco
import numpy as np
from jaxtyping import Bool, Shaped

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


def read_masks(
    annotations: Sequence[Mapping[str, Any]], sizes: Mapping[int, tuple[int, int]]
) -> tuple[list[Any], Bool[np.ndarray, " G"], int]:
    """Return each annotation's mask or box region, which of them are masks, (G,) bool,
    and how many polygons were left out.

    Raises:
      ValueError: there are annotations and none has a mask, or one of `read_mask`.
    """
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


def index_masks(
    images: Sequence[Mapping[str, Any]],
    categories: Sequence[Mapping[str, Any]],
    columns: Mapping[str, Shaped[np.ndarray, "G ..."]],
    regions: Sequence[Any],
    masked: Bool[np.ndarray, " G"],
) -> hotcoco.COCO:
    """Index masks so that objects without one are neither to be found nor wrong.

    By COCO's rules such an object is a crowd region over its box. LVIS knows none, but
    categories of which not every object is annotated; so there the object is left out,
    and its category is not exhaustive in its image.

    Args:
      images, categories, columns: of `hotcoco.COCO.from_arrays`; columns are (G, ...).
      regions, masked: what `read_masks` returns.
    """
    if masked.all():
        return hotcoco.COCO.from_arrays(
            images, categories, **columns, segmentation=regions
        )
    key = "not_exhaustive_category_ids"
    if not any(key in image for image in images):
        columns = dict(columns) | {"iscrowd": columns["iscrowd"] | ~masked}
        return hotcoco.COCO.from_arrays(
            images, categories, **columns, segmentation=regions
        )
    more: dict[int, set[int]] = {}
    bare = (columns[name][~masked].tolist() for name in ("image_ids", "category_ids"))
    for image_id, category_id in zip(*bare, strict=True):
        more.setdefault(image_id, set()).add(category_id)
    return hotcoco.COCO.from_arrays(
        [i | {key: sorted({*i[key], *more.get(i["id"], ())})} for i in images],
        categories,
        **{name: column[masked] for name, column in columns.items()},
        segmentation=[regions[k] for k in np.flatnonzero(masked)],
    )
