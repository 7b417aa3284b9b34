"""YOLO sets: a text file for each image, a line for each object."""

import dataclasses
import math
import pathlib
from typing import Any

import numpy as np

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.annotations.objects import Annotations, Segmentation, encloses
from agvm_jax.data.annotations.segments import Segments
from agvm_jax.data.augment.decode import Annotated, Turns, decide_turns
from agvm_jax.data.formats.files import Sign, digest, read_file, root_of
from agvm_jax.data.formats.held_out import hold_out
from agvm_jax.data.formats.yolo_layout import (
    YoloFiles,
    find_yaml,
    find_yolo,
    is_yolo,
)
from agvm_jax.data.storage.records import FORMAT, MakeOrigin


def recognises(root: pathlib.Path, data_config: Any) -> Sign:
    """By a training split, where data.yaml says or in a usual layout.

    The root may be the .yaml file itself. One that leads nowhere is told so.
    """
    del data_config
    looked_for = (
        "images/train/ and labels/train/, or a data.yaml that names such folders"
    )
    if _is_yaml(root):
        return Sign(True, "a .yaml file as the root")
    wrong = ""
    found = is_yolo(root)
    if not found and find_yaml(root):
        try:
            find_yolo(root)
        except DataError as error:
            wrong = str(error)
    return Sign(found, looked_for, wrong)


def origins(data_config: Any) -> MakeOrigin:
    """The splits of a YOLO folder, or of its data.yaml."""
    remedy = (
        "put a YOLO folder there, or set --config.data.root=PATH to one, or to its\n"
        "data.yaml"
    )
    if _is_yaml(data_config.root):
        root = pathlib.Path(data_config.root).expanduser()
        if not root.is_file():
            raise DataError(f"There is no file {root}: {remedy}.")
    else:
        root = root_of(data_config, remedy)
    found = find_yolo(root)
    annotated = Annotated.of(data_config.exif_turns, Annotated.TURNED)

    def make(split: str) -> YoloOrigin:
        files = found.train if split == "train" else found.val
        return YoloOrigin(split, files, found.names, annotated, found.keypoints)

    if found.val is None:
        return hold_out(lambda: make("train"), data_config)
    return lambda split, categories: make(split)


def _is_yaml(root: str | pathlib.Path) -> bool:
    return pathlib.Path(root).suffix in (".yaml", ".yml")


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
