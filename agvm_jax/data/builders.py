"""The builders: from the config to the origin of each split, by name."""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from agvm_jax.data import shapes
from agvm_jax.data.annotations import Annotations
from agvm_jax.data.coco import read_coco
from agvm_jax.data.decode import stored_size
from agvm_jax.data.errors import DataError
from agvm_jax.data.fingerprints import digest, file_digest, listing
from agvm_jax.data.label_folder import LabelFolderOrigin, read_names
from agvm_jax.data.records import FORMAT, Origin
from agvm_jax.data.segments import Segments

# A builder takes the config and returns a maker of origins: (split, categories of the
# training split or None) -> Origin.
MakeOrigin = Callable[[str, dict[int, str] | None], Origin]


@dataclasses.dataclass(frozen=True)
class ShapesOrigin:
    """A split of the generated set."""

    split: str
    count: int
    style: shapes.Style
    name: str = "shapes"

    def fingerprint(self) -> str:
        return digest(FORMAT, shapes.VERSION, self.split, self.count, self.style)

    def annotations(self) -> Annotations:
        return shapes.shapes_annotations(self.style, self.split, self.count)

    def image_sizes(self, annotations: Annotations) -> np.ndarray:
        # JPEG of this noise takes well under two bytes a pixel.
        height, width = self.style.image_size
        return np.full(len(annotations), 2 * height * width)

    def image_bytes(self, annotations: Annotations, index: int) -> bytes:
        return shapes.encode_drawing(self._draw(index))

    def segments(self, annotations: Annotations, index: int) -> Segments | None:
        return self._draw(index).segments() if self.style.stuff else None

    def _draw(self, index: int) -> shapes.Drawing:
        return shapes.draw_shapes(self.style, self.split, index)


@dataclasses.dataclass(frozen=True)
class CocoOrigin:
    """A split that is a COCO annotation file and a folder of images."""

    name: str
    split: str
    annotation_file: pathlib.Path
    image_folder: pathlib.Path
    categories: dict[int, str] | None = None

    def fingerprint(self) -> str:
        """Digest of the annotation file and of the images' names and sizes."""
        return digest(
            FORMAT,
            self.name,
            self.split,
            file_digest(self.annotation_file),
            listing(self.image_folder),
            self.categories,
        )

    def annotations(self) -> Annotations:
        annotations = read_coco(self.annotation_file, self.categories)
        # Files without sizes: the pictures know. One that cannot be decoded keeps
        # (0, 0), loses its boxes, and is reported; the pipeline will skip it.
        for index in np.flatnonzero((annotations.sizes == 0).any(axis=1)):
            annotations.sizes[index] = stored_size(self.image_bytes(annotations, index))
        return annotations

    def image_sizes(self, annotations: Annotations) -> np.ndarray:
        sizes, absent = [], []
        for name in annotations.file_names:
            path = self.image_folder / name
            if os.path.isfile(path):  # False, not an error, for impossible names
                sizes.append(path.stat().st_size)
            else:
                absent.append(name)
        if absent:
            raise DataError(
                f"{len(absent)} of the {len(annotations)} images that"
                f" {self.annotation_file} lists are not in {self.image_folder}:"
                f" {', '.join(map(repr, absent[:10]))}{', ...' * (len(absent) > 10)};"
                " add them or remove their entries."
            )
        return np.array(sizes)

    def segments(self, annotations: Annotations, index: int) -> Segments | None:
        return None

    def image_bytes(self, annotations: Annotations, index: int) -> bytes:
        path = self.image_folder / annotations.file_names[index]
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}.") from None


def _shapes(data_config: Any) -> MakeOrigin:
    """The generated set: nothing to download."""
    config = data_config.shapes
    counts = {"train": config.train_images, "val": config.val_images}
    for split, count in counts.items():
        if count < 1:
            raise DataError(f"config.data.shapes.{split}_images is {count}, not 1 up.")
    style = shapes.Style(
        seed=config.seed,
        image_size=tuple(config.image_size),
        max_objects=config.max_objects,
        stuff=config.stuff,
    )
    return lambda split, categories: ShapesOrigin(split, counts[split], style)


def _coco(data_config: Any) -> MakeOrigin:
    """COCO 2017 as it comes out of its archives."""
    layout = (
        "put train2017/, val2017/ and annotations/instances_{train,val}2017.json of\n"
        "https://cocodataset.org/#download there, or set --config.data.root=PATH"
    )
    return _coco_layout(
        data_config,
        {
            split: (f"annotations/instances_{split}2017.json", f"{split}2017")
            for split in ("train", "val")
        },
        layout,
    )


def _coco_folder(data_config: Any) -> MakeOrigin:
    """Any COCO-format folder; the keys of the config say what is called what."""
    return _coco_layout(
        data_config,
        {
            "train": (data_config.train_annotations, data_config.train_images),
            "val": (data_config.val_annotations, data_config.val_images),
        },
        "put it there, or set --config.data.root=PATH and the keys train_annotations,\n"
        "val_annotations, train_images and val_images of config.data",
    )


def _coco_layout(
    data_config: Any, layout: dict[str, tuple[str, str]], remedy: str
) -> MakeOrigin:
    """Origins for (annotation file, image folder) of each split."""
    root = _root(data_config, remedy)
    for annotations, images in layout.values():
        if not (root / annotations).is_file():
            raise DataError(
                f"There is no annotation file {root / annotations}: {remedy}."
            )
        _require_folder(root / images, "image", remedy)
    return lambda split, categories: CocoOrigin(
        data_config.name,
        split,
        root / layout[split][0],
        root / layout[split][1],
        categories,
    )


def _ade20k(data_config: Any) -> MakeOrigin:
    """ADE20K as SceneParse150 comes out of its archive: 150 classes, 0 is void."""
    layout = {
        "train": ("images/training", "annotations/training"),
        "val": ("images/validation", "annotations/validation"),
    }
    remedy = (
        "unpack ADEChallengeData2016.zip of http://sceneparsing.csail.mit.edu there,\n"
        "or set --config.data.root=PATH to the folder with images/ and annotations/"
    )
    return _label_layout(data_config, layout, (0,), remedy)


def _label_folder(data_config: Any) -> MakeOrigin:
    """Images and label PNGs; the keys of the config say what is called what."""
    layout = {
        "train": (data_config.train_images, data_config.train_labels),
        "val": (data_config.val_images, data_config.val_labels),
    }
    remedy = (
        "put it there, or set --config.data.root=PATH and the keys train_images,\n"
        "train_labels, val_images and val_labels of config.data"
    )
    return _label_layout(data_config, layout, tuple(data_config.label_void), remedy)


def _label_layout(
    data_config: Any,
    layout: dict[str, tuple[str, str]],
    void: tuple[int, ...],
    remedy: str,
) -> MakeOrigin:
    """Origins for (image folder, label folder) of each split."""
    root = _root(data_config, remedy)
    for images, labels in layout.values():
        _require_folder(root / images, "image", remedy)
        _require_folder(root / labels, "label", remedy)
    names = read_names(tuple(data_config.label_names), root)
    return lambda split, categories: LabelFolderOrigin(
        data_config.name,
        split,
        root / layout[split][0],
        root / layout[split][1],
        names,
        void,
    )


def _root(data_config: Any, remedy: str) -> pathlib.Path:
    """config.data.root, which must be a folder."""
    if not data_config.root:
        raise DataError(f"config.data.root is empty: {remedy}.")
    root = pathlib.Path(data_config.root).expanduser()
    _require_folder(root, "data", remedy)
    return root


def _require_folder(folder: pathlib.Path, what: str, remedy: str) -> None:
    if not folder.is_dir():
        raise DataError(f"There is no {what} folder {folder}: {remedy}.")


BUILDERS: dict[str, Callable[[Any], MakeOrigin]] = {
    "shapes": _shapes,
    "coco": _coco,
    "coco_folder": _coco_folder,
    "ade20k": _ade20k,
    "label_folder": _label_folder,
}
