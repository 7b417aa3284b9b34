"""The builders: from the config to the origin of each split, by name."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from agvm_jax.data import shapes
from agvm_jax.data.annotations import Annotations
from agvm_jax.data.coco_folder import CocoOrigin
from agvm_jax.data.errors import DataError
from agvm_jax.data.fingerprints import digest
from agvm_jax.data.label_folder import LabelFolderOrigin, read_names
from agvm_jax.data.records import FORMAT, Origin
from agvm_jax.data.segments import Segments
from agvm_jax.data.semantic_files import SemanticFiles
from agvm_jax.data.yolo import YoloOrigin, find_split, read_class_names

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
        "set --config.data.root=PATH to a folder with train2017/, val2017/ and\n"
        "annotations/ of COCO; `python -m agvm_jax.data.download coco PATH` makes one"
    )
    return _coco_layout(
        "coco",
        data_config,
        {
            split: (
                f"annotations/instances_{split}2017.json",
                f"{split}2017",
                f"annotations/panoptic_{split}2017.json",
            )
            for split in ("train", "val")
        },
        layout,
    )


def _coco_folder(data_config: Any) -> MakeOrigin:
    """Any COCO-format folder; the keys of the config say what is called what."""
    return _coco_layout(
        "coco_folder",
        data_config,
        {
            "train": (
                data_config.train_annotations,
                data_config.train_images,
                data_config.train_panoptic,
            ),
            "val": (
                data_config.val_annotations,
                data_config.val_images,
                data_config.val_panoptic,
            ),
        },
        "put it there, or set --config.data.root=PATH and the keys train_annotations,\n"
        "val_annotations, train_images and val_images of config.data",
        {"train": data_config.train_labels, "val": data_config.val_labels},
    )


def _coco_layout(
    name: str,
    data_config: Any,
    layout: dict[str, tuple[str, str, str]],
    remedy: str,
    labels: dict[str, str] | None = None,
) -> MakeOrigin:
    """Origins for (annotation file, image folder, panoptic file) of each split.

    The panoptic file is looked at when the config asks for semantic labels, and the
    folder in `labels`, where one is given, when there is no panoptic file.
    """
    root = root_of(data_config, remedy)
    labels = labels or {}
    panoptic: dict[str, pathlib.Path] = {}
    semantic: dict[str, SemanticFiles] = {}
    for split, (annotations, images, segments) in layout.items():
        if not (root / annotations).is_file():
            raise DataError(
                f"There is no annotation file {root / annotations}: {remedy}."
            )
        _require_folder(root / images, "image", remedy)
        if data_config.semantic == "none":
            continue
        if (root / segments).is_file():
            panoptic[split] = root / segments
        elif split in labels and (root / labels[split]).is_dir():
            semantic[split] = SemanticFiles(
                root / labels[split],
                read_names(tuple(data_config.label_names), root),
                _void(data_config),
            )
        else:
            either = f" nor a label folder {root / labels[split]}" if labels else ""
            raise DataError(
                f"config.data.semantic is {data_config.semantic!r}, but there is no"
                f" panoptic annotation file {root / segments}{either}: add it and the"
                " folder of PNGs of the same name, or set config.data.semantic to none."
            )
    if panoptic and semantic:
        raise DataError(
            f"The {next(iter(panoptic))} split of {root} has a panoptic file and the"
            f" {next(iter(semantic))} split has label PNGs: their stuff classes cannot"
            " be compared; give both splits the same."
        )
    return lambda split, categories: CocoOrigin(
        name,
        split,
        root / layout[split][0],
        root / layout[split][1],
        categories,
        panoptic.get(split),
        semantic.get(split),
    )


def _ade20k(data_config: Any) -> MakeOrigin:
    """ADE20K as SceneParse150 comes out of its archive: 150 classes, 0 is void."""
    layout = {
        "train": ("images/training", "annotations/training"),
        "val": ("images/validation", "annotations/validation"),
    }
    remedy = (
        "set --config.data.root=PATH to a folder with images/ and annotations/ of\n"
        "SceneParse150; `python -m agvm_jax.data.download ade20k PATH` makes one"
    )
    return _label_layout("ade20k", data_config, layout, (0,), remedy)


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
    void = _void(data_config)
    return _label_layout("label_folder", data_config, layout, void, remedy)


def _label_layout(
    name: str,
    data_config: Any,
    layout: dict[str, tuple[str, str]],
    void: tuple[int, ...],
    remedy: str,
) -> MakeOrigin:
    """Origins for (image folder, label folder) of each split."""
    root = root_of(data_config, remedy)
    for images, labels in layout.values():
        _require_folder(root / images, "image", remedy)
        _require_folder(root / labels, "label", remedy)
    names = read_names(tuple(data_config.label_names), root)
    return lambda split, categories: LabelFolderOrigin(
        name,
        split,
        root / layout[split][0],
        root / layout[split][1],
        names,
        void,
    )


def _void(data_config: Any) -> tuple[int, ...]:
    """config.data.label_void, checked."""
    void = tuple(data_config.label_void)
    if any(not 0 <= value < 2**16 for value in void):
        raise DataError(
            f"config.data.label_void is {void}: these are values of PNG pixels, 0 to"
            " 65535."
        )
    return void


def _yolo(data_config: Any) -> MakeOrigin:
    """A YOLO folder: images/train beside labels/train, or train/images and so on."""
    remedy = "put a YOLO folder there, or set --config.data.root=PATH to one"
    root = root_of(data_config, remedy)
    folders = {split: find_split(root, split) for split in ("train", "val")}
    names = read_class_names(root)
    return lambda split, categories: YoloOrigin(split, *folders[split], names)


def root_of(data_config: Any, remedy: str) -> pathlib.Path:
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
    "yolo": _yolo,
}
