"""Semantic segmentation from folders: images, and label PNGs of the same names."""

import dataclasses
import pathlib

import numpy as np

from agvm_jax.data.annotations.columns import Annotations
from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.annotations.segments import Segments, segments_from_labels
from agvm_jax.data.augment.exif import Annotated, Turns, decide_turns
from agvm_jax.data.formats.fingerprints import digest, image_names, listing
from agvm_jax.data.formats.label_png import label_size, read_label_map
from agvm_jax.data.storage.records import FORMAT


@dataclasses.dataclass(frozen=True)
class LabelFolderOrigin:
    """A split that is a folder of images beside a folder of label PNGs.

    A label PNG has its image's size and name (but for the ending), folders in it
    included, and one channel of up to 16 bits, or a palette. Its values that are not
    void stand for the classes in ascending order: with void (255,) value 0 is class 0;
    with void (0,) value 1 is.

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
    annotated: Annotated = Annotated.LIKE_OTHERS  # where sizes do not tell
    note: str = ""

    def fingerprint(self) -> str:
        return digest(
            FORMAT,
            self.name,
            self.split,
            self.names,
            self.void,
            self.annotated,
            listing(self.image_folder),
            listing(self.label_folder),
        )

    def annotations(self) -> Annotations:
        """Images in the order of their names, numbered from 1; no boxes."""
        files = [n for n in image_names(self.image_folder) if not self._is_label(n)]
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
            sizes=np.array([label_size(self._label(name)) for name in files], np.int64),
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

    def turns(self, annotations: Annotations) -> Turns:
        files = (self.image_folder / name for name in annotations.file_names)
        return decide_turns(files, annotations.sizes, self.annotated)

    def image_sizes(self, annotations: Annotations) -> np.ndarray:
        sizes = dict(listing(self.image_folder))
        labels = dict(listing(self.label_folder))
        return np.array(
            [sizes[name] + labels[_label_name(name)] for name in annotations.file_names]
        )

    def image_bytes(self, annotations: Annotations, index: int) -> bytes:
        return _read(self.image_folder / annotations.file_names[index])

    def segments(self, annotations: Annotations, index: int) -> Segments:
        path = self._label(annotations.file_names[index])
        size = tuple(annotations.sizes[index].tolist())
        return segments_from_labels(read_label_map(path, size, self.names, self.void))

    def _is_label(self, image_name: str) -> bool:
        """Whether an image is a label PNG: their folder may be that of the images."""
        if self.label_folder == self.image_folder:
            return image_name.lower().endswith(".png")
        return (self.image_folder / image_name).is_relative_to(self.label_folder)

    def _label(self, image_name: str) -> pathlib.Path:
        return self.label_folder / _label_name(image_name)


def read_names(config_names: tuple[str, ...], root: pathlib.Path) -> tuple[str, ...]:
    """Class names: the config's, else the lines of classes.txt, else SceneParse150's.

    Raises:
      DataError: there are none.
    """
    if config_names:
        return tuple(config_names)
    lines = root / "classes.txt"
    if lines.is_file():
        names = _read(lines).decode("utf-8-sig", "replace").splitlines()
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
    return pathlib.PurePosixPath(image_name).with_suffix(".png").as_posix()


def _read(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
