"""Read a COCO annotation file: any file gives Annotations or one DataError."""

import pathlib
from typing import Any

import hotcoco
import numpy as np

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.annotations.objects import Annotations, Segmentation, encloses
from agvm_jax.data.formats.files import (
    LARGEST,
    check_file_name,
    finite_numbers,
    is_text,
    load_json,
    object_list,
    run_lengths,
    short,
    whole_number,
)

# What LVIS says of an image: categories that are known not to be in it, and those of
# which not every object is annotated.
_LVIS_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")


def read_coco(
    path: str | pathlib.Path, categories: dict[int, str] | None = None
) -> Annotations:
    """Read the boxes and masks of a COCO annotation file.

    Lenient where files in the wild differ and the meaning is plain: `info`, `licenses`,
    `iscrowd`, `area` and annotation ids may be missing, category ids may have holes,
    sizes may be missing (0 then), boxes may reach outside. Strict where a guess could
    train on nonsense.

    Args:
      path: the annotation file.
      categories: id -> name of the training split. The file's own categories must be
        among them, and classes are numbered by them; None: the file's own.

    Raises:
      DataError: naming the entry, what is wrong with it, and what to do.
    """
    path = pathlib.Path(path)
    content = load_json(path)
    images = object_list(content, "images", path)
    kinds = object_list(content, "categories", path)
    objects = object_list(content, "annotations", path)
    if not images:
        raise DataError(f"{path} lists no images: an empty data set cannot be used.")
    own = _read_categories(kinds, path)
    if categories is None:
        categories = own
    for category_id, name in own.items():
        if categories.get(category_id) != name:
            raise DataError(
                f"{path}: category {category_id} is {name!r} here but"
                f" {categories.get(category_id, 'absent')!r} in the training split;"
                " both files need the same categories."
            )
    frequencies = {
        entry["id"]: {"frequency": entry["frequency"]}  # LVIS' rare, common, frequent
        for entry in kinds
        if isinstance(entry.get("frequency"), str)
    }
    columns = _read_images(images, path)
    ids, sizes = columns["image_ids"].tolist(), columns["sizes"].tolist()
    return Annotations(
        **columns,
        category_ids=tuple(sorted(categories)),
        class_names=tuple(categories[i] for i in sorted(categories)),
        category_fields=frequencies,
        **_read_objects(
            objects, dict(zip(ids, sizes, strict=True)), sorted(categories), path
        ),
    )


def _read_categories(entries: list[dict], path: pathlib.Path) -> dict[int, str]:
    """Category entries -> id -> name."""
    categories: dict[int, str] = {}
    for number, entry in enumerate(entries):
        category_id = whole_number(
            entry.get("id"), f"the id of category {number}", path
        )
        name = entry.get("name")
        if not isinstance(name, str) or not name or not is_text(name):
            raise DataError(f"{path}: category {category_id} has no name.")
        if category_id in categories:
            raise DataError(
                f"{path}: two categories have the id {category_id}; ids must differ."
            )
        categories[category_id] = name
    if not categories:
        raise DataError(f"{path} lists no categories: there is nothing to detect.")
    return categories


def _read_images(entries: list[dict], path: pathlib.Path) -> dict[str, Any]:
    """Image entries -> the image columns of Annotations."""
    ids, names, sizes, fields = [], [], [], []
    seen: dict[int, str] = {}
    for number, entry in enumerate(entries):
        image_id = whole_number(
            entry.get("id"), f"the id of image entry {number}", path
        )
        name, url = entry.get("file_name"), entry.get("coco_url")
        if not name and isinstance(url, str):
            name = "/".join(url.split("/")[-2:])  # LVIS gives nothing else
        check_file_name(name, image_id, path)
        if image_id in seen:
            raise DataError(
                f"{path}: {seen[image_id]!r} and {name!r} both have the image id"
                f" {image_id}; ids must differ."
            )
        seen[image_id] = name
        size = [0, 0]
        for axis, side in enumerate(("height", "width")):
            if entry.get(side) is not None:
                what = f"the {side} of image {image_id}"
                size[axis] = whole_number(entry[side], what, path)
        if max(size) > 2**31 - 1:
            raise DataError(f"{path}: image {image_id} cannot be {size} pixels large.")
        own: dict[str, list[int]] = {}
        for key in _LVIS_LISTS:
            if isinstance(listed := entry.get(key), list):
                what = f"{key} of image {image_id}"
                own[key] = [whole_number(i, what, path) for i in listed]
        ids.append(image_id)
        names.append(name)
        sizes.append(size if min(size) > 0 else [0, 0])
        fields.append(own)
    return {
        "image_ids": np.array(ids, np.int64),
        "file_names": names,
        "sizes": np.array(sizes, np.int64).reshape(-1, 2),
        "image_fields": tuple(fields) if any(fields) else (),
    }


def _read_objects(
    entries: list[dict],
    sizes: dict[int, list[int]],
    category_ids: list[int],
    path: pathlib.Path,
) -> dict[str, Any]:
    """Annotation entries -> the object columns of Annotations."""
    image_row = {image_id: row for row, image_id in enumerate(sizes)}
    class_of = {category_id: k for k, category_id in enumerate(category_ids)}
    names, rows, classes, boxes, areas, crowd = [], [], [], [], [], []
    for number, entry in enumerate(entries):
        what = f"annotation {short(entry.get('id', f'number {number}'))}"
        image_id = whole_number(entry.get("image_id"), f"the image_id of {what}", path)
        category_id = whole_number(
            entry.get("category_id"), f"the category_id of {what}", path
        )
        if image_id not in image_row:
            raise DataError(
                f"{path}: {what} names image {image_id}, which is not among the images;"
                " remove the annotation or add the image."
            )
        if category_id not in class_of:
            raise DataError(
                f"{path}: {what} names category {category_id}, which is not among the"
                " categories; remove the annotation or add the category."
            )
        box, area, iscrowd = entry.get("bbox"), entry.get("area"), entry.get("iscrowd")
        if box is not None:
            if not isinstance(box, list) or len(box) != 4:
                raise DataError(
                    f"{path}: the bbox of {what} is {short(box)}, not [x, y, width,"
                    " height]."
                )
            box = finite_numbers(box, f"the bbox of {what}", path)
        if area is not None:
            (area,) = finite_numbers([area], f"the area of {what}", path)
        if iscrowd not in (None, 0, 1):
            raise DataError(
                f"{path}: iscrowd of {what} is {short(iscrowd)}, not 0 or 1."
            )
        names.append(what)
        rows.append(image_row[image_id])
        classes.append(class_of[category_id])
        boxes.append(box)
        areas.append(area)
        crowd.append(bool(iscrowd))
    segmentations: list[Segmentation] = []
    lost_masks, dropped_polygons = [], []
    for k, (entry, what) in enumerate(zip(entries, names, strict=True)):
        size = sizes[entry["image_id"]]
        segmentation, dropped = _read_segmentation(entry, size, what, path)
        lost = segmentation is None and bool(entry.get("segmentation"))
        if boxes[k] is None:
            boxes[k] = _box_around(segmentation, lost, what, path)
        if areas[k] is None:
            areas[k] = max(boxes[k][2], 0.0) * max(boxes[k][3], 0.0)
        segmentations.append(segmentation)
        lost_masks.append(lost)
        dropped_polygons.append(dropped)
    return {
        "object_ids": _unique_ids([entry.get("id") for entry in entries]),
        "object_image": np.array(rows, np.int64),
        "object_class": np.array(classes, np.int32),
        "boxes": np.array(boxes, np.float64).reshape(-1, 4),
        "areas": np.array(areas, np.float64),
        "crowd": np.array(crowd, bool),
        "segmentations": segmentations,
        "dropped_polygons": np.array(dropped_polygons, np.int64),
        "lost_masks": np.array(lost_masks, bool),
    }


def _read_segmentation(
    entry: dict, size: list[int], what: str, path: pathlib.Path
) -> tuple[Segmentation, int]:
    """The annotation's mask, and how many polygons were dropped.

    A polygon of fewer than three points, or with all of them on one line, encloses
    nothing. Of an annotation with only such, or with run lengths of no pixel, the mask
    is None, as if it had no segmentation; it is counted.
    """
    segmentation = entry.get("segmentation")
    if not segmentation:  # absent, null, [] or {}
        return None, 0
    if isinstance(segmentation, dict):
        segmentation = run_lengths(segmentation, size, what, path)
        return segmentation if hotcoco.mask.area(segmentation) else None, 0
    if not isinstance(segmentation, list):
        raise DataError(
            f"{path}: the segmentation of {what} is {short(segmentation)}, neither"
            " polygons nor run lengths."
        )
    polygons = []
    for polygon in segmentation:
        try:
            points = np.array(polygon, np.float64)
        except (TypeError, ValueError, OverflowError):
            points = None
        if points is None or points.ndim != 1 or len(points) % 2:
            raise DataError(
                f"{path}: a polygon of {what} is {short(polygon)}, not a list of x y"
                " pairs."
            )
        if not (np.abs(points) < 1e30).all():
            raise DataError(
                f"{path}: a polygon of {what} holds a number that is not finite."
            )
        if encloses(points):
            polygons.append(points)
    return polygons or None, len(segmentation) - len(polygons)


def _box_around(
    segmentation: Segmentation, lost: bool, what: str, path: pathlib.Path
) -> list[float]:
    """x y width height of a mask, for an annotation without a bbox.

    Around a mask that was lost there is none: it is dropped for its zero area.
    """
    if lost:
        return [0.0, 0.0, 0.0, 0.0]
    if segmentation is None:
        raise DataError(
            f"{path}: {what} has neither a bbox nor a segmentation to take one from."
        )
    if isinstance(segmentation, dict):
        return hotcoco.mask.to_bbox(segmentation).tolist()
    points = np.concatenate(segmentation).reshape(-1, 2)
    low, high = points.min(axis=0), points.max(axis=0)
    return [*low.tolist(), *(high - low).tolist()]


def _unique_ids(ids: list[Any]) -> np.ndarray:
    """The annotations' own ids when they can serve, else 1..A.

    COCO's evaluation looks annotations up by id and takes id 0 for "unmatched", so ids
    that are missing, repeated or below 1 are replaced, all of them.
    """
    good = all(type(i) is int and 0 < i <= LARGEST for i in ids)
    if not good or len(set(ids)) != len(ids):
        ids = range(1, len(ids) + 1)
    return np.array(list(ids), np.int64)
