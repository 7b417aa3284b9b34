"""The builders: from the config to the origin of each split, by name."""

import pathlib
from collections.abc import Callable
from typing import Any

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.augment.exif import Annotated
from agvm_jax.data.formats import shapes_drawing
from agvm_jax.data.formats.builder_keys import (
    MakeOrigin,
    annotated_by,
    hold_out,
    lacks_validation,
    require_folder,
    root_of,
)
from agvm_jax.data.formats.coco_builders import coco, coco_folder, lvis, void_values
from agvm_jax.data.formats.label_folder import LabelFolderOrigin, read_names
from agvm_jax.data.formats.shapes import ShapesOrigin
from agvm_jax.data.formats.yolo import YoloOrigin
from agvm_jax.data.formats.yolo_layout import find_yolo


def _shapes(data_config: Any) -> MakeOrigin:
    """The generated set: nothing to download."""
    config = data_config.shapes
    counts = {"train": config.train_images, "val": config.val_images}
    for split, count in counts.items():
        if count < 1:
            raise DataError(f"config.data.shapes.{split}_images is {count}, not 1 up.")
    style = shapes_drawing.Style(
        seed=config.seed,
        image_size=tuple(config.image_size),
        max_objects=config.max_objects,
        stuff=config.stuff,
    )
    return lambda split, categories: ShapesOrigin(split, counts[split], style)


def _ade20k(data_config: Any) -> MakeOrigin:
    """ADE20K as SceneParse150 comes out of its archive: 150 classes, 0 is void."""
    layout = {
        "train": ("images/training", "annotations/training"),
        "val": ("images/validation", "annotations/validation"),
    }
    remedy = (
        "set --config.data.root=PATH to a folder with images/ and annotations/ of\n"
        "SceneParse150; `python -m agvm_jax.data.tools.download ade20k PATH` makes one"
    )
    return _label_layout("ade20k", data_config, layout, (0,), Annotated.STORED, remedy)


def _label_folder(data_config: Any) -> MakeOrigin:
    """Images and label PNGs; the keys of the config say what is called what."""
    layout = {"train": (data_config.train_images, data_config.train_labels)}
    remedy = (
        "put it there, or set --config.data.root=PATH and the keys train_images,\n"
        "train_labels, val_images and val_labels of config.data"
    )
    keys = ("val_images", "val_labels")
    if not lacks_validation(data_config, root_of(data_config, remedy), keys):
        layout["val"] = (data_config.val_images, data_config.val_labels)
    usual = Annotated.LIKE_OTHERS
    void = void_values(data_config)
    return _label_layout("label_folder", data_config, layout, void, usual, remedy)


def _label_layout(
    name: str,
    data_config: Any,
    layout: dict[str, tuple[str, str]],
    void: tuple[int, ...],
    usual: Annotated,
    remedy: str,
) -> MakeOrigin:
    """Origins for (image folder, label folder) of each split; see `_coco_layout`."""
    root = root_of(data_config, remedy)
    for images, labels in layout.values():
        require_folder(root / images, "image", remedy)
        require_folder(root / labels, "label", remedy)
    names = read_names(tuple(data_config.label_names), root)
    annotated = annotated_by(data_config, usual)

    def make(split: str) -> LabelFolderOrigin:
        images, labels = layout[split]
        return LabelFolderOrigin(
            name, split, root / images, root / labels, names, void, annotated
        )

    if "val" not in layout:
        return hold_out(lambda: make("train"), data_config)
    return lambda split, categories: make(split)


def _yolo(data_config: Any) -> MakeOrigin:
    """A YOLO folder, or its data.yaml."""
    remedy = (
        "put a YOLO folder there, or set --config.data.root=PATH to one, or to its\n"
        "data.yaml"
    )
    if pathlib.Path(data_config.root).suffix in (".yaml", ".yml"):
        root = pathlib.Path(data_config.root).expanduser()
        if not root.is_file():
            raise DataError(f"There is no file {root}: {remedy}.")
    else:
        root = root_of(data_config, remedy)
    found = find_yolo(root)
    annotated = annotated_by(data_config, Annotated.TURNED)

    def make(split: str) -> YoloOrigin:
        files = found.train if split == "train" else found.val
        return YoloOrigin(split, files, found.names, annotated, found.keypoints)

    if found.val is None:
        return hold_out(lambda: make("train"), data_config)
    return lambda split, categories: make(split)


BUILDERS: dict[str, Callable[[Any], MakeOrigin]] = {
    "shapes": _shapes,
    "coco": coco,
    "coco_folder": coco_folder,
    "lvis": lvis,
    "ade20k": _ade20k,
    "label_folder": _label_folder,
    "yolo": _yolo,
}
