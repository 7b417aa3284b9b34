"""Semantic segmentation from folders: images, and label PNGs of the same names."""

import dataclasses
import pathlib

import cv2
import numpy as np

from agvm_jax.data.annotations import Annotations
from agvm_jax.data.decode import IMAGES, check_whole
from agvm_jax.data.errors import DataError, UnreadableImage
from agvm_jax.data.fingerprints import digest, listing
from agvm_jax.data.records import FORMAT
from agvm_jax.data.segments import Segments, segments_from_labels


@dataclasses.dataclass(frozen=True)
class LabelFolderOrigin:
    """A split that is a folder of images beside a folder of label PNGs.

    A label PNG has one channel of 8 or 16 bits and its image's size and name (but for
    the ending). Its values that are not void stand for the classes in ascending order:
    with void (255,) value 0 is class 0; with void (0,) value 1 is.

    Attributes:
      names: of the classes.
      void: values that mean "nothing to learn here".
    """

    name: str
    split: str
    image_folder: pathlib.Path
    label_folder: pathlib.Path
    names: tuple[str, ...]
    void: tuple[int, ...]

    def fingerprint(self) -> str:
        return digest(
            FORMAT,
            self.name,
            self.split,
            self.names,
            self.void,
            listing(self.image_folder),
            listing(self.label_folder),
        )

    def annotations(self) -> Annotations:
        """Images in the order of their names, numbered from 1; no boxes."""
        files = [
            name
            for name, _ in listing(self.image_folder)
            if pathlib.PurePath(name).suffix.lower() in IMAGES
        ]
        if not files:
            raise DataError(f"There is no image in {self.image_folder}.")
        labelled = {name for name, _ in listing(self.label_folder)}
        missing = [name for name in files if _label_name(name) not in labelled]
        if missing:
            raise DataError(
                f"{len(missing)} of the {len(files)} images in {self.image_folder} have"
                f" no label PNG in {self.label_folder}:"
                f" {', '.join(map(repr, missing[:10]))}{', ...' * (len(missing) > 10)};"
                " add them or remove the images."
            )
        nothing = np.zeros(0, np.int64)
        return Annotations(
            image_ids=np.arange(1, len(files) + 1),
            file_names=files,
            sizes=np.array([self._label_size(name) for name in files], np.int64),
            category_ids=(),
            class_names=(),
            object_ids=nothing,
            object_image=nothing,
            object_class=nothing.astype(np.int32),
            boxes=np.zeros((0, 4)),
            areas=np.zeros(0),
            crowd=nothing.astype(bool),
            segmentations=[],
            stuff_ids=tuple(range(1, len(self.names) + 1)),
            stuff_names=self.names,
        )

    def image_sizes(self, annotations: Annotations) -> np.ndarray:
        sizes = dict(listing(self.image_folder))
        labels = dict(listing(self.label_folder))
        return np.array(
            [sizes[name] + labels[_label_name(name)] for name in annotations.file_names]
        )

    def image_bytes(self, annotations: Annotations, index: int) -> bytes:
        return _read(self.image_folder / annotations.file_names[index])

    def segments(self, annotations: Annotations, index: int) -> Segments:
        path = self.label_folder / _label_name(annotations.file_names[index])
        size = tuple(annotations.sizes[index].tolist())
        return segments_from_labels(read_label_map(path, size, self.names, self.void))

    def _label_size(self, name: str) -> tuple[int, int]:
        """Height and width from the head of the label PNG."""
        path = self.label_folder / _label_name(name)
        try:
            with open(path, "rb") as file:
                head = file.read(24)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}.") from None
        if len(head) < 24 or not head.startswith(b"\x89PNG"):
            raise DataError(f"{path} is not a PNG file.")
        width, height = (int.from_bytes(head[a : a + 4], "big") for a in (16, 20))
        return height, width


def read_label_map(
    path: pathlib.Path,
    size: tuple[int, int],
    names: tuple[str, ...],
    void: tuple[int, ...],
) -> np.ndarray:
    """The classes of a label PNG's pixels.

    Args:
      path: of the PNG.
      size: height and width that it must have; (0, 0) accepts any.
      names: of the classes, which the values that are not void stand for in order.
      void: values without a class.

    Returns:
      (h, w) integers, 0.. for the classes and -1 for void.

    Raises:
      DataError: naming the file and what is wrong with it.
    """
    data = _read(path)
    try:
        check_whole(data)
    except UnreadableImage as error:
        raise DataError(f"The label file {path} {error}.") from None
    try:
        values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        values = None
    if values is None or values.ndim != 2:
        raise DataError(
            f"{path} is not a PNG of one channel: label files hold class numbers, not"
            " colours."
        )
    if min(size) > 0 and values.shape != size:
        raise DataError(
            f"The label file {path} has height and width {values.shape}, not {size}."
        )
    table = _table(len(names), void)
    largest = int(values.max())
    if largest >= len(table) or (table[values] == _UNKNOWN).any():
        unknown = [
            v for v in np.unique(values) if v >= len(table) or table[v] == _UNKNOWN
        ]
        raise DataError(
            f"{path} holds the values {[int(v) for v in unknown[:10]]}, but there are"
            f" {len(names)} classes and void is {list(void)}; name all classes, or add"
            " the values to config.data.label_void."
        )
    return table[values]


_UNKNOWN = -2  # a value that is neither a class nor void


def _table(classes: int, void: tuple[int, ...]) -> np.ndarray:
    """Value -> class, -1 for void."""
    table = np.full(max([*void, classes + len(void)]) + 1, _UNKNOWN)
    free = (v for v in range(len(table)) if v not in void)
    for k, value in zip(range(classes), free, strict=False):
        table[value] = k
    table[list(void)] = -1
    return table


def read_names(config_names: tuple[str, ...], root: pathlib.Path) -> tuple[str, ...]:
    """Class names: the config's, else the lines of classes.txt, else SceneParse150's.

    Raises:
      DataError: there are none.
    """
    if config_names:
        return tuple(config_names)
    lines = root / "classes.txt"
    if lines.is_file():
        names = _read(lines).decode("utf-8", "replace").splitlines()
        return tuple(name.strip() for name in names if name.strip())
    table = root / "objectInfo150.txt"
    if table.is_file():  # Idx, Ratio, Train, Val, Name, separated by tabs
        rows = _read(table).decode("utf-8", "replace").splitlines()[1:]
        return tuple(row.split("\t")[-1].split(",")[0].strip() for row in rows if row)
    raise DataError(
        f"The classes of {root} have no names: write classes.txt there, one name a line"
        " in the order of the label values, or set config.data.label_names."
    )


def _label_name(image_name: str) -> str:
    return pathlib.PurePath(image_name).stem + ".png"


def _read(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
