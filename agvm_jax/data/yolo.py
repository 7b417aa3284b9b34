"""YOLO text folders: a text file for each image, a line for each object."""

import dataclasses
import math
import pathlib
from typing import Any

import numpy as np
import yaml

from agvm_jax.data.annotations import Annotations
from agvm_jax.data.decode import IMAGES, stored_size
from agvm_jax.data.errors import DataError
from agvm_jax.data.fingerprints import digest, listing
from agvm_jax.data.json_fields import is_text
from agvm_jax.data.masks import Segmentation
from agvm_jax.data.records import FORMAT
from agvm_jax.data.segments import Segments


@dataclasses.dataclass(frozen=True)
class YoloOrigin:
    """A split that is a folder of images beside a folder of text files.

    A line is `class x y width height` (the centre) or `class x1 y1 x2 y2 x3 y3 ...` (a
    polygon, which is a mask too), in shares of the picture's width and height. An image
    without a text file, or with an empty one, shows no object. YOLO's tools turn
    pictures as their EXIF data say, and so does this: the shares are of the turned
    picture. (A picture that EXIF mirrors or puts upside down cannot be told by its
    size; turn such files before.)
    """

    split: str
    image_folder: pathlib.Path
    label_folder: pathlib.Path
    class_names: tuple[str, ...]
    name: str = "yolo"

    def fingerprint(self) -> str:
        """Of the labels their content: an edit may well leave a file's size alone."""
        labels = {
            name: _read(self.label_folder / name)
            for name, _ in listing(self.label_folder)
            if name.endswith(".txt")
        }
        return digest(
            FORMAT, self.split, self.class_names, listing(self.image_folder), labels
        )

    def annotations(self) -> Annotations:
        """Images in the order of their names, numbered from 1."""
        files = [
            name
            for name, _ in listing(self.image_folder)
            if pathlib.PurePath(name).suffix.lower() in IMAGES
        ]
        if not files:
            raise DataError(f"There is no image in {self.image_folder}.")
        sizes = [self._size(name) for name in files]
        rows, classes, boxes, segmentations = [], [], [], []
        for row, (name, size) in enumerate(zip(files, sizes, strict=True)):
            path = self.label_folder / (pathlib.PurePath(name).stem + ".txt")
            for k, box, segmentation in self._objects(path, size):
                rows.append(row)
                classes.append(k)
                boxes.append(box)
                segmentations.append(segmentation)
        corners = np.array(boxes, np.float64).reshape(-1, 4)
        return Annotations(
            image_ids=np.arange(1, len(files) + 1),
            file_names=files,
            sizes=np.array(sizes, np.int64),
            category_ids=tuple(range(len(self.class_names))),
            class_names=self.class_names,
            object_ids=np.arange(1, len(rows) + 1),
            object_image=np.array(rows, np.int64),
            object_class=np.array(classes, np.int32),
            boxes=corners,
            areas=corners[:, 2:].clip(min=0).prod(axis=1),
            crowd=np.zeros(len(rows), bool),
            segmentations=segmentations,
        )

    def image_sizes(self, annotations: Annotations) -> np.ndarray:
        sizes = dict(listing(self.image_folder))
        return np.array([sizes[name] for name in annotations.file_names])

    def image_bytes(self, annotations: Annotations, index: int) -> bytes:
        return _read(self.image_folder / annotations.file_names[index])

    def segments(self, annotations: Annotations, index: int) -> Segments | None:
        return None

    def _size(self, name: str) -> tuple[int, int]:
        return stored_size(_read(self.image_folder / name), turned=True)

    def _objects(
        self, path: pathlib.Path, size: tuple[int, int]
    ) -> list[tuple[int, list[float], Segmentation]]:
        """(class, x y width height in pixels, polygons or None) of each line."""
        if not path.exists():
            return []
        lines = _read(path).decode("utf-8", "replace").splitlines()
        height, width = size
        objects = []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            values = _numbers(line)
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
                box, segmentation = [*low, *extent], [points.ravel()]
            objects.append((int(k), [float(v) for v in box], segmentation))
        return objects


def read_class_names(root: pathlib.Path) -> tuple[str, ...]:
    """`names` of data.yaml, a list or a mapping from 0 up; else lines of classes.txt.

    The paths in data.yaml are not read: they name places on the machine that it was
    written on.

    Raises:
      DataError: there are none.
    """
    path = next((p for p in map(root.joinpath, _YAML) if p.is_file()), None)
    if path is None:
        lines = root / "classes.txt"
        if not lines.is_file():
            raise DataError(
                f"There is neither data.yaml nor classes.txt in {root}: put one there"
                " that names the classes."
            )
        found: Any = _read(lines).decode("utf-8", "replace").split("\n")
        found = [line.strip() for line in found if line.strip()]
    else:
        text = _read(path)
        try:
            content = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"{path} is not valid YAML: {reason}.") from None
        found = content.get("names") if isinstance(content, dict) else None
        if isinstance(found, dict) and set(found) == set(range(len(found))):
            found = [found[k] for k in range(len(found))]
    if not isinstance(found, list) or not found:
        raise DataError(
            f"{path or root} names no classes: it needs `names`, a list or a mapping"
            " that counts from 0."
        )
    names = tuple(str(name) for name in found)
    if not all(map(is_text, names)):
        raise DataError(f"{path}: a class has a name that is not UTF-8 text.")
    return names


_YAML = ("data.yaml", "dataset.yaml", "data.yml")


def find_split(root: pathlib.Path, split: str) -> tuple[pathlib.Path, pathlib.Path]:
    """Image folder and label folder of a split, in either of the usual layouts.

    Raises:
      DataError: neither layout is there.
    """
    tried = []
    for name in (split, *(["valid"] if split == "val" else [])):
        for images, labels in (
            (root / "images" / name, root / "labels" / name),
            (root / name / "images", root / name / "labels"),
        ):
            if images.is_dir() and labels.is_dir():
                return images, labels
            tried.append(f"{images.relative_to(root)} with {labels.relative_to(root)}")
    raise DataError(
        f"{root} is no YOLO folder: for the {split} split it has none of"
        f" {'; '.join(tried)}."
    )


def is_yolo(root: pathlib.Path) -> bool:
    """Whether a folder has a training split in either of the usual layouts."""
    try:
        find_split(root, "train")
    except DataError:
        return False
    return True


def _numbers(line: str) -> list[float] | None:
    """The numbers of a line; None where one is none, or not finite."""
    try:
        values = [float(word) for word in line.split()]
    except ValueError:
        return None
    return values if all(map(math.isfinite, values)) else None


def _read(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
