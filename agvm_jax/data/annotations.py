"""Annotations of one split as columns, and the report of what had to be mended."""

import dataclasses
from typing import Any

import numpy as np

from agvm_jax.data.masks import Segmentation, bitmap, windows

# COCO writes boxes with two decimals: an edge this far outside the picture is
# rounding, and is clipped without being counted.
_ROUNDING = 0.02


@dataclasses.dataclass(frozen=True)
class Report:
    """What a split holds, and what was dropped or mended on the way in.

    Attributes:
      images: pictures listed.
      boxes: boxes kept, crowd regions among them.
      crowd_boxes: kept boxes that are crowd regions, never a target.
      images_without_boxes: pictures kept as negatives.
      clipped_boxes: boxes that reached over the picture's edge.
      zero_area_boxes: boxes dropped because they had no area as they were given.
      outside_boxes: boxes dropped because nothing of them lies in the picture.
      most_boxes: the largest number of kept boxes in one picture.
      masks: kept boxes that have a mask.
      label_maps: pictures whose every pixel is labelled, void included.
      short_polygons: polygons dropped because they had fewer than three points.
      unreadable_images: pictures without a stated size that could not be decoded.
    """

    images: int
    boxes: int
    crowd_boxes: int
    images_without_boxes: int
    clipped_boxes: int
    zero_area_boxes: int
    outside_boxes: int
    most_boxes: int
    masks: int
    label_maps: int
    short_polygons: int
    unreadable_images: int

    def lines(self) -> list[str]:
        """The report for people: the contents first, then only what was mended."""
        first = f"{self.images} images"
        if self.boxes or not self.label_maps:
            first += f", {self.boxes} boxes, at most {self.most_boxes} in one image"
        if self.masks:
            first += f", {self.masks} masks"
        if self.label_maps:
            first += f", {self.label_maps} label maps"
        lines = [first]
        for count, text in (
            (self.crowd_boxes, "crowd regions (ignored, never a target)"),
            (
                self.images_without_boxes if self.boxes else 0,
                "images without boxes (kept as negatives)",
            ),
            (self.clipped_boxes, "boxes clipped to their image"),
            (self.zero_area_boxes, "boxes without area dropped"),
            (self.outside_boxes, "boxes wholly outside their image dropped"),
            (self.short_polygons, "polygons of fewer than three points dropped"),
            (self.unreadable_images, "images of unknown size that cannot be decoded"),
        ):
            if count:
                lines.append(f"{count} {text}")
        return lines


@dataclasses.dataclass(frozen=True, eq=False)
class Annotations:
    """Images, categories and objects of one split, as columns.

    I images, A objects, K categories. A class is an index into `category_ids`.

    Attributes:
      image_ids: (I,) int64, unique, 0 or more.
      file_names: I names, relative to the image folder.
      sizes: (I, 2) int64, height and width; zeros where unknown.
      category_ids: K original ids, ascending; holes are fine.
      class_names: K names.
      object_ids: (A,) int64, unique, 1 or more.
      object_image: (A,) int64, index of each object's image.
      object_class: (A,) int32.
      boxes: (A, 4) float64, x y width height as they were given.
      areas: (A,) float64.
      crowd: (A,) bool.
      segmentations: A masks, each polygons, run lengths or None.
      short_polygons: polygons that were left out of them.
      stuff_ids: S original ids of the classes that have segments but no boxes.
      stuff_names: their S names; they are numbered K, K + 1, ...
    """

    image_ids: np.ndarray
    file_names: list[str]
    sizes: np.ndarray
    category_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    object_ids: np.ndarray
    object_image: np.ndarray
    object_class: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    segmentations: list[Segmentation]
    short_polygons: int = 0
    stuff_ids: tuple[int, ...] = ()
    stuff_names: tuple[str, ...] = ()
    # Derived: objects sorted by image, and where each image's run starts.
    _order: np.ndarray = dataclasses.field(init=False, repr=False)
    _starts: np.ndarray = dataclasses.field(init=False, repr=False)

    def __post_init__(self):
        order = np.argsort(self.object_image, kind="stable")
        starts = np.searchsorted(
            self.object_image[order], np.arange(len(self.image_ids) + 1)
        )
        object.__setattr__(self, "_order", order)
        object.__setattr__(self, "_starts", starts)

    def __len__(self) -> int:
        return len(self.image_ids)

    def objects(self, index: int) -> dict[str, np.ndarray]:
        """The objects of image `index`, clipped to it, those without area dropped.

        Returns:
          boxes (n, 4) float32 x1 y1 x2 y2, classes (n,) int32, crowd (n,) bool and
          area (n,) float32, in the order of the annotation file.
        """
        rows, boxes = self._kept(index)
        return {
            "boxes": boxes,
            "classes": self.object_class[rows],
            "crowd": self.crowd[rows],
            "area": self.areas[rows].astype(np.float32),
        }

    def bitmaps(self, index: int) -> list[np.ndarray]:
        """The masks of the same objects, each as the bitmap of its box; see `masks`."""
        rows, boxes = self._kept(index)
        return [
            bitmap(self.segmentations[row], window)
            for row, window in zip(rows.tolist(), windows(boxes), strict=True)
        ]

    def _kept(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of image `index` that have area in it, and their clipped boxes."""
        rows = self._order[self._starts[index] : self._starts[index + 1]]
        height, width = self.sizes[index]
        boxes = _clipped_corners(self.boxes[rows], height, width)
        keep = _has_area(boxes)
        return rows[keep], boxes[keep]

    def report(self) -> Report:
        """Count what `objects` keeps, clips and drops over the whole split."""
        height, width = self.sizes[self.object_image].T
        corners = _clipped_corners(self.boxes, height, width)
        keep = _has_area(corners)
        empty = (self.boxes[:, 2:] <= 0).any(axis=1)
        x, y, w, h = self.boxes.T
        overhang = np.max([-x, -y, x + w - width, y + h - height], axis=0, initial=0.0)
        masked = np.array([s is not None for s in self.segmentations], bool)
        each_image = np.bincount(self.object_image[keep], minlength=len(self))
        return Report(
            images=len(self),
            boxes=int(keep.sum()),
            crowd_boxes=int((keep & self.crowd).sum()),
            images_without_boxes=int((each_image == 0).sum()),
            clipped_boxes=int((keep & (overhang > _ROUNDING)).sum()),
            zero_area_boxes=int((~keep & empty).sum()),
            outside_boxes=int((~keep & ~empty).sum()),
            most_boxes=int(each_image.max(initial=0)),
            masks=int((keep & masked).sum()),
            label_maps=len(self) if self.stuff_names else 0,
            short_polygons=self.short_polygons,
            unreadable_images=int((self.sizes == 0).any(axis=1).sum()),
        )

    def ground_truth(self) -> dict[str, Any]:
        """The split as a COCO dictionary, boxes as they were given, for evaluators."""
        return {
            "images": [
                {"id": i, "file_name": name, "height": height, "width": width}
                for i, name, (height, width) in zip(
                    self.image_ids.tolist(),
                    self.file_names,
                    self.sizes.tolist(),
                    strict=True,
                )
            ],
            "annotations": [
                {
                    "id": i,
                    "image_id": image_id,
                    "category_id": self.category_ids[k],
                    "bbox": box,
                    "area": area,
                    "iscrowd": crowd,
                }
                | _segmentation_entry(segmentation)
                for i, image_id, k, box, area, crowd, segmentation in zip(
                    self.object_ids.tolist(),
                    self.image_ids[self.object_image].tolist(),
                    self.object_class.tolist(),
                    self.boxes.tolist(),
                    self.areas.tolist(),
                    self.crowd.astype(int).tolist(),
                    self.segmentations,
                    strict=True,
                )
            ],
            "categories": [
                {"id": i, "name": name}
                for i, name in zip(self.category_ids, self.class_names, strict=True)
            ],
        }


def _segmentation_entry(segmentation: Segmentation) -> dict[str, Any]:
    """The annotation's key for its mask, if it has one."""
    if segmentation is None:
        return {}
    if isinstance(segmentation, list):
        segmentation = [polygon.tolist() for polygon in segmentation]
    return {"segmentation": segmentation}


def _clipped_corners(boxes: np.ndarray, height, width) -> np.ndarray:
    """x y w h (A, 4) -> float32 x1 y1 x2 y2 inside pictures of the given sizes.

    Clipped in float64 and rounded after, so that a box of 1e300 pixels is an edge of
    the picture and not an infinity.
    """
    x, y, w, h = boxes.T
    corners = [
        np.clip(x, 0, width),
        np.clip(y, 0, height),
        np.clip(x + w, 0, width),
        np.clip(y + h, 0, height),
    ]
    return np.stack(corners, axis=1).astype(np.float32)


def _has_area(corners: np.ndarray) -> np.ndarray:
    """(A, 4) x1 y1 x2 y2 -> (A,) bool."""
    return (corners[:, 2:] > corners[:, :2]).all(axis=1)
