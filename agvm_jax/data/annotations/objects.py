"""The objects of a split's images, as columns, and the bitmap of each one's mask.

A mask is kept as the bitmap of its box: the smallest window of whole pixels around it.
What lies outside the box is never looked at, so an image with thirty small objects
costs thirty small bitmaps and not thirty images.
"""

import dataclasses
import functools
import zlib
from collections.abc import Sequence
from typing import Any

import cv2
import hotcoco
import numpy as np

from agvm_jax.data.annotations.report import Report

Segmentation = list[np.ndarray] | dict[str, Any] | None
"""Polygons ((2p,) float64 x y x y ...), or COCO's compressed run lengths, {"size": [h,
w], "counts": bytes}, or nothing."""

# COCO writes boxes with two decimals: an edge this far outside the picture is
# rounding, and is clipped without being counted.
_ROUNDING = 0.02

# Polygons are filled on finer pixels: OpenCV paints their outline too, half a pixel
# too wide. At most 8 to a pixel, and fewer where 512 to the window's side are enough.
_FINEST = 8
_FILL_SIDE = 512


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
      dropped_polygons: (A,) int64, how many were left out of each because they enclose
        nothing; None: none.
      lost_masks: (A,) bool, objects that had a segmentation of which nothing is left;
        None: no object.
      stuff_ids: S original ids of the classes that have segments but no boxes.
      stuff_names: their S names; they are numbered K, K + 1, ...
      image_fields: I dictionaries of what else `ground_truth` says of each image, or
        nothing; category_fields: the same by category id. LVIS' evaluation needs it.
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
    dropped_polygons: np.ndarray | None = None
    lost_masks: np.ndarray | None = None
    stuff_ids: tuple[int, ...] = ()
    stuff_names: tuple[str, ...] = ()
    image_fields: tuple[dict[str, Any], ...] = ()
    category_fields: dict[int, dict[str, Any]] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def _runs(self) -> tuple[np.ndarray, np.ndarray]:
        """The objects' rows sorted by image, and where each image's run starts."""
        order = np.argsort(self.object_image, kind="stable")
        starts = np.searchsorted(
            self.object_image[order], np.arange(len(self.image_ids) + 1)
        )
        return order, starts

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
        """The masks of the same objects, each as the bitmap of its box."""
        rows, boxes = self._kept(index)
        return [
            bitmap(self.segmentations[row], window)
            for row, window in zip(rows.tolist(), windows(boxes), strict=True)
        ]

    def _kept(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of image `index` that have area in it, and their clipped boxes."""
        order, starts = self._runs
        rows = order[starts[index] : starts[index + 1]]
        height, width = self.sizes[index]
        boxes = _clipped_corners(self.boxes[rows], height, width)
        keep = _has_area(boxes)
        return rows[keep], boxes[keep]

    def have_area(self) -> np.ndarray:
        """(A,) bool: which objects have area in their image; `objects` keeps those."""
        height, width = self.sizes[self.object_image].T
        return _has_area(_clipped_corners(self.boxes, height, width))

    def object_counts(self) -> np.ndarray:
        """(I,) int64: objects of each image that `objects` keeps and are no crowd."""
        counted = self.object_image[self.have_area() & ~self.crowd]
        return np.bincount(counted, minlength=len(self))

    def select(self, indices: np.ndarray) -> "Annotations":
        """The images at `indices`, in that order, with their objects."""
        place = np.full(len(self), -1)
        place[indices] = np.arange(len(indices))
        rows = np.flatnonzero(place[self.object_image] >= 0)
        return dataclasses.replace(
            self,
            image_ids=self.image_ids[indices],
            file_names=[self.file_names[i] for i in indices],
            sizes=self.sizes[indices],
            object_ids=self.object_ids[rows],
            object_image=place[self.object_image[rows]],
            object_class=self.object_class[rows],
            boxes=self.boxes[rows],
            areas=self.areas[rows],
            crowd=self.crowd[rows],
            segmentations=[self.segmentations[row] for row in rows],
            dropped_polygons=_part(self.dropped_polygons, rows),
            lost_masks=_part(self.lost_masks, rows),
            image_fields=tuple(self.image_fields[i] for i in indices)
            if self.image_fields
            else (),
        )

    def report(self) -> Report:
        """Count what `objects` keeps, clips and drops over the whole split."""
        height, width = self.sizes[self.object_image].T
        keep = self.have_area()
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
            tiny_boxes=int((keep & (self.boxes[:, 2:] < 1).all(axis=1)).sum()),
            most_boxes=int(each_image.max(initial=0)),
            masks=int((keep & masked).sum()),
            label_maps=len(self) if self.stuff_names else 0,
            dropped_polygons=0
            if self.dropped_polygons is None
            else int(self.dropped_polygons.sum()),
            lost_masks=0
            if self.lost_masks is None
            else int((keep & self.lost_masks).sum()),
            unreadable_images=int((self.sizes == 0).any(axis=1).sum()),
        )


def _part(column: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    """Those rows of a column that may be absent."""
    return None if column is None else column[rows]


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


def encloses(points: np.ndarray) -> bool:
    """Whether a polygon, (2p,) x y x y ..., encloses anything: not all on one line."""
    if len(points) < 6:
        return False
    edges = points.reshape(-1, 2)[1:] - points[:2]
    far = edges[np.argmax(np.abs(edges).max(axis=1))]
    return bool((edges[:, 0] * far[1] != edges[:, 1] * far[0]).any())


def windows(boxes: np.ndarray) -> np.ndarray:
    """(n, 4) boxes x1 y1 x2 y2 -> (n, 4) int64, the whole pixels that they touch."""
    return np.concatenate([np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])], 1).astype(
        np.int64
    )


def bitmap(segmentation: Segmentation, window: Sequence[int]) -> np.ndarray:
    """The part of a mask that lies in a window.

    Args:
      segmentation: polygons, whose union is the mask, run lengths of the whole
        picture (empty where the window leaves it), or None: an empty mask.
      window: x1 y1 x2 y2, whole pixels.

    Returns:
      (y2 - y1, x2 - x1) bool: pixels of which half or more are covered; see
      `covered` for polygons so thin that there is none.
    """
    x1, y1, x2, y2 = (int(side) for side in window)
    if segmentation is None:
        return np.zeros((y2 - y1, x2 - x1), bool)
    if isinstance(segmentation, dict):
        part = hotcoco.mask.decode(segmentation)[y1:y2, x1:x2].astype(bool)
        missing = (y2 - y1 - part.shape[0], x2 - x1 - part.shape[1])
        return np.pad(part, [(0, missing[0]), (0, missing[1])])
    fine = max(1, min(_FINEST, _FILL_SIDE // max(y2 - y1, x2 - x1)))
    canvas = np.zeros(((y2 - y1) * fine, (x2 - x1) * fine), np.uint8)
    for polygon in segmentation:
        # A coordinate is the corner between pixels; OpenCV counts from centres. Points
        # far outside are drawn in, where their edges still leave the window.
        points = (polygon.reshape(-1, 2) - (x1, y1)) * fine - 0.5
        points = np.clip(points, -(2.0**20), 2.0**20)
        cv2.fillPoly(canvas, [np.round(points * 16).astype(np.int32)], 1, shift=4)
    if fine == 1:
        return canvas.astype(bool)
    means = cv2.resize(
        canvas * np.uint8(200), (x2 - x1, y2 - y1), interpolation=cv2.INTER_AREA
    )
    return covered(means, 100)


def pack(bitmaps: Sequence[np.ndarray]) -> bytes:
    """The bitmaps of a picture's objects as one string; their boxes tell the sizes."""
    return zlib.compress(b"".join(np.packbits(one).tobytes() for one in bitmaps), 6)


def unpack(packed: bytes, boxes: np.ndarray) -> list[np.ndarray]:
    """What `pack` was given, for the same boxes (n, 4)."""
    bits = np.frombuffer(zlib.decompress(packed), np.uint8)
    bitmaps, start = [], 0
    for x1, y1, x2, y2 in windows(boxes).tolist():
        pixels = (y2 - y1) * (x2 - x1)
        end = start + -(-pixels // 8)
        one = np.unpackbits(bits[start:end], count=pixels)
        bitmaps.append(one.reshape(y2 - y1, x2 - x1))
        start = end
    return bitmaps


def covered(shares: np.ndarray, half: float | np.ndarray) -> np.ndarray:
    """Where the shares (..., h, w) of objects reach a half (...), but for rounding.

    An object so thin that none does would vanish: of it those stay that have half as
    much as the largest. Where nothing is covered, nothing stays.
    """
    half = np.asarray(half)[..., None, None]
    largest = shares.max(axis=(-2, -1), keepdims=True, initial=0)
    least = np.where(largest >= half, half, largest / 2)
    return (shares >= least * (1 - 1e-9)) & (shares > half * 1e-6)
