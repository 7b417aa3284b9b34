"""Read the `segmentation` of a COCO annotation: polygons or run lengths, checked."""

import pathlib
from typing import Any

import numpy as np

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.annotations.masks import Segmentation, decompress_counts, encloses
from agvm_jax.data.formats.json_fields import short


def read_segmentation(
    entry: dict, size: list[int], what: str, path: pathlib.Path
) -> tuple[Segmentation, int]:
    """The annotation's mask, and how many polygons were dropped.

    A polygon of fewer than three points, or with all of them on one line, encloses
    nothing. Of an annotation with only such, or with run lengths of no pixel, the mask
    is None, as if it had no segmentation; `coco` counts it.
    """
    segmentation = entry.get("segmentation")
    if not segmentation:  # absent, null, [] or {}
        return None, 0
    if isinstance(segmentation, dict):
        segmentation = _read_run_lengths(segmentation, size, what, path)
        return segmentation if any(segmentation["counts"][1::2]) else None, 0
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


def _read_run_lengths(
    segmentation: dict, size: list[int], what: str, path: pathlib.Path
) -> dict[str, Any]:
    """Checked COCO run lengths, uncompressed."""
    own, counts = segmentation.get("size"), segmentation.get("counts")
    if (
        not isinstance(own, list)
        or [type(side) for side in own] != [int, int]
        or not all(0 < side < 2**31 for side in own)
    ):
        raise DataError(
            f"{path}: the run lengths of {what} have the size {short(own)}, not"
            " [height, width]."
        )
    if min(size) > 0 and own != size:
        raise DataError(
            f"{path}: the run lengths of {what} are for a picture of height and width"
            f" {own}, but its image has {size}."
        )
    if isinstance(counts, str):
        try:
            counts = decompress_counts(counts)
        except DataError as error:
            raise DataError(f"{path}: {what}: {error}.") from None
    if not isinstance(counts, list) or not all(
        type(count) is int and count >= 0 for count in counts
    ):
        raise DataError(
            f"{path}: the counts of {what} are {short(counts)}, not run lengths."
        )
    if sum(counts) != own[0] * own[1]:
        raise DataError(
            f"{path}: the run lengths of {what} cover {sum(counts)} pixels of a picture"
            f" of {own[0] * own[1]}."
        )
    return {"size": own, "counts": counts}
