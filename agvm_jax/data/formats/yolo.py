"""YOLO sets: a text file for each image, a line for each object."""

import dataclasses
import math
import pathlib

import numpy as np

from agvm_jax.data.annotations.columns import Annotations
from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.annotations.masks import Segmentation, encloses
from agvm_jax.data.annotations.segments import Segments
from agvm_jax.data.augment.exif import Annotated, Turns, decide_turns
from agvm_jax.data.formats.fingerprints import digest
from agvm_jax.data.formats.yolo_files import YoloFiles, read_file
from agvm_jax.data.storage.records import FORMAT


@dataclasses.dataclass(frozen=True)
class YoloOrigin:
    """A split of images, each with a text file.

    A line is `class x y width height` (the centre) or `class x1 y1 x2 y2 x3 y3 ...` (a
    polygon, which is a mask too), in shares of the picture's width and height. An image
    without a text file, or with an empty one, shows no object. YOLO's tools turn
    pictures as their EXIF data say, and so does this: the shares are of the turned
    picture, unless `annotated` says otherwise.
    """

    split: str
    files: YoloFiles
    class_names: tuple[str, ...]
    annotated: Annotated = Annotated.TURNED
    keypoints: bool = False  # what follows the box in a line is not read
    name: str = "yolo"

    @property
    def note(self) -> str:
        """What a person should know of how the images were found."""
        return self.files.note

    def fingerprint(self) -> str:
        """Of the labels their content: an edit may well leave a file's size alone."""
        images, texts = [], []
        for name, path in self.files.images.items():
            label = self.files.label(path)
            images.append((name, path.stat().st_size))
            texts.append(read_file(label) if label.is_file() else None)
        return digest(
            *(FORMAT, self.split, self.class_names, self.annotated, self.keypoints),
            *(images, texts),
        )

    def annotations(self) -> Annotations:
        """Images in the order of their names, or of their list, numbered from 1."""
        names, paths = list(self.files.images), list(self.files.images.values())
        labels = [self.files.label(path) for path in paths]
        if not any(label.is_file() for label in labels):
            raise DataError(
                f"None of the {len(names)} images of the {self.split} split has a label"
                f" file: there is no {labels[0]}, for one."
            )
        unknown = np.zeros((len(names), 2), np.int64)
        sizes = decide_turns(paths, unknown, self.annotated).sizes
        rows, classes, boxes, segmentations, lost = [], [], [], [], []
        for row, (path, size) in enumerate(zip(labels, sizes.tolist(), strict=True)):
            for k, box, segmentation, is_polygon in self._objects(path, size):
                rows.append(row)
                classes.append(k)
                boxes.append(box)
                segmentations.append(segmentation)
                lost.append(is_polygon and segmentation is None)
        corners = np.array(boxes, np.float64).reshape(-1, 4)
        return Annotations(
            image_ids=np.arange(1, len(names) + 1),
            file_names=names,
            sizes=sizes,
            category_ids=tuple(range(len(self.class_names))),
            class_names=self.class_names,
            object_ids=np.arange(1, len(rows) + 1),
            object_image=np.array(rows, np.int64),
            object_class=np.array(classes, np.int32),
            boxes=corners,
            areas=corners[:, 2:].clip(min=0).prod(axis=1),
            crowd=np.zeros(len(rows), bool),
            segmentations=segmentations,
            dropped_polygons=np.array(lost, np.int64),
            lost_masks=np.array(lost, bool),
        )

    def turns(self, annotations: Annotations) -> Turns:
        paths = [self.files.images[name] for name in annotations.file_names]
        return decide_turns(paths, annotations.sizes, self.annotated)

    def image_sizes(self, annotations: Annotations) -> np.ndarray:
        images = self.files.images
        return np.array(
            [images[name].stat().st_size for name in annotations.file_names]
        )

    def image_bytes(self, annotations: Annotations, index: int) -> bytes:
        return read_file(self.files.images[annotations.file_names[index]])

    def segments(self, annotations: Annotations, index: int) -> Segments | None:
        return None

    def _objects(
        self, path: pathlib.Path, size: list[int]
    ) -> list[tuple[int, list[float], Segmentation, bool]]:
        """Of each line: class, x y width height in pixels, polygons or None, and
        whether it is a polygon."""
        if not path.is_file():
            return []
        lines = read_file(path).decode("utf-8-sig", "replace").splitlines()
        height, width = size
        objects = []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            values = _numbers(line)
            if values is not None and self.keypoints:
                values = values[:5]
            if values is None or (len(values) != 5 and len(values) < 7):
                raise DataError(
                    f"{path}, line {number}: {line[:60]!r} is neither 'class x y width"
                    " height' nor 'class x1 y1 x2 y2 x3 y3 ...'."
                )
            if len(values) % 2 == 0:
                raise DataError(
                    f"{path}, line {number}: its polygon has an x without a y."
                )
            k, rest = values[0], np.array(values[1:])
            if k != int(k) or not 0 <= k < len(self.class_names):
                raise DataError(
                    f"{path}, line {number}: the class is {k:g}, but there are"
                    f" {len(self.class_names)} classes, counted from 0."
                )
            segmentation = None
            if len(rest) == 4:
                x, y, w, h = rest * (width, height, width, height)
                box = [x - w / 2, y - h / 2, w, h]
            else:
                points = rest.reshape(-1, 2) * (width, height)
                low, extent = points.min(axis=0), np.ptp(points, axis=0)
                box = [*low, *extent]
                if encloses(points.ravel()):
                    segmentation = [points.ravel()]
            objects.append(
                (int(k), [float(v) for v in box], segmentation, len(rest) > 4)
            )
        return objects


def _numbers(line: str) -> list[float] | None:
    """The numbers of a line; None where one is none, or not finite."""
    try:
        values = [float(word) for word in line.split()]
    except ValueError:
        return None
    return values if all(map(math.isfinite, values)) else None
