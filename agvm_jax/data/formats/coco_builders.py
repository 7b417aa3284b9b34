"""The builders of sets with COCO annotation files: COCO, LVIS, similar folders."""

import dataclasses
import pathlib
from typing import Any

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.augment.exif import Annotated
from agvm_jax.data.formats.builder_keys import (
    MakeOrigin,
    annotated_by,
    hold_out,
    lacks_validation,
    require_folder,
    root_of,
)
from agvm_jax.data.formats.coco_folder import CocoOrigin
from agvm_jax.data.formats.coco_stuff import SemanticFiles
from agvm_jax.data.formats.label_folder import read_names

# What Roboflow calls the annotations of each split, beside its images.
ROBOFLOW = "_annotations.coco.json"


@dataclasses.dataclass(frozen=True)
class _Split:
    """Names of a split's files and folders, under the root; "" for none."""

    annotations: str
    images: str
    panoptic: str = ""
    labels: str = ""


def coco(data_config: Any) -> MakeOrigin:
    """COCO 2017 as it comes out of its archives."""
    remedy = (
        "set --config.data.root=PATH to a folder with train2017/, val2017/ and\n"
        "annotations/ of COCO; `python -m agvm_jax.data.tools.download coco PATH`\n"
        "makes one"
    )
    layout = {
        split: _Split(
            f"annotations/instances_{split}2017.json",
            f"{split}2017",
            f"annotations/panoptic_{split}2017.json",
        )
        for split in ("train", "val")
    }
    return _coco_layout("coco", data_config, layout, Annotated.STORED, remedy)


def coco_folder(data_config: Any) -> MakeOrigin:
    """Any COCO-format folder; the keys of the config say what is called what.

    Where there is no file of that name, train/ and valid/ of Roboflow are looked for.
    """
    remedy = (
        "put it there, or set --config.data.root=PATH and the keys train_annotations,\n"
        "val_annotations, train_images and val_images of config.data"
    )
    config, root = data_config, root_of(data_config, remedy)
    exported = {
        split: _Split(f"{folder}/{ROBOFLOW}", folder)
        for split, folder in (("train", "train"), ("val", "valid"))
        if (root / folder / ROBOFLOW).is_file()
    }
    if "train" in exported and not (root / config.train_annotations).is_file():
        layout = exported
    else:
        layout = {
            "train": _Split(
                config.train_annotations,
                config.train_images,
                config.train_panoptic,
                config.train_labels,
            )
        }
        if not lacks_validation(config, root, ("val_annotations", "val_images")):
            layout["val"] = _Split(
                config.val_annotations,
                config.val_images,
                config.val_panoptic,
                config.val_labels,
            )
    usual = Annotated.LIKE_OTHERS
    return _coco_layout("coco_folder", config, layout, usual, remedy)


def lvis(data_config: Any) -> MakeOrigin:
    """LVIS v1, whose images are those of COCO 2017, in the folders of both splits."""
    remedy = (
        "set --config.data.root=PATH to a folder with train2017/ and val2017/ of COCO\n"
        "2017, and lvis_v1_train.json and lvis_v1_val.json there or in annotations/"
    )
    root = root_of(data_config, remedy)
    for folder in ("train2017", "val2017"):
        require_folder(root / folder, "image", remedy)
    layout = {}
    for split in ("train", "val"):
        name = f"lvis_v1_{split}.json"
        inside = (root / "annotations" / name).is_file()
        layout[split] = _Split(f"annotations/{name}" if inside else name, "")
    make = _coco_layout("lvis", data_config, layout, Annotated.STORED, remedy)
    listed = (root / "train2017", root / "val2017")
    return lambda split, categories: dataclasses.replace(
        make(split, categories), listed=listed
    )


def _coco_layout(
    name: str,
    data_config: Any,
    layout: dict[str, _Split],
    usual: Annotated,
    remedy: str,
) -> MakeOrigin:
    """Origins for each split of a layout; without "val", parts of "train".

    The panoptic file is looked at when the config asks for semantic labels, and the
    folder of label PNGs, where one is named, when there is no panoptic file.
    """
    root = root_of(data_config, remedy)
    panoptic: dict[str, pathlib.Path] = {}
    semantic: dict[str, SemanticFiles] = {}
    for split, names in layout.items():
        if not (root / names.annotations).is_file():
            raise DataError(
                f"There is no annotation file {root / names.annotations}: {remedy}."
            )
        require_folder(root / names.images, "image", remedy)
        if data_config.semantic == "none":
            continue
        if names.panoptic and (root / names.panoptic).is_file():
            panoptic[split] = root / names.panoptic
        elif names.labels and (root / names.labels).is_dir():
            semantic[split] = SemanticFiles(
                root / names.labels,
                read_names(tuple(data_config.label_names), root),
                void_values(data_config),
            )
        else:
            raise DataError(_no_labels(data_config, root, names))
    if panoptic and semantic:
        raise DataError(
            f"The {next(iter(panoptic))} split of {root} has a panoptic file and the"
            f" {next(iter(semantic))} split has label PNGs: their stuff classes cannot"
            " be compared; give both splits the same."
        )
    annotated = annotated_by(data_config, usual)

    def make(split: str, categories: dict[int, str] | None) -> CocoOrigin:
        return CocoOrigin(
            name,
            split,
            root / layout[split].annotations,
            root / layout[split].images,
            categories,
            panoptic.get(split),
            semantic.get(split),
            annotated,
        )

    if "val" not in layout:
        return hold_out(lambda: make("train", None), data_config)
    return make


def _no_labels(data_config: Any, root: pathlib.Path, names: _Split) -> str:
    """What to say where semantic labels are asked for and not there."""
    asked = f"config.data.semantic is {data_config.semantic!r}, but"
    if not names.panoptic:
        return f"{asked} this set has no semantic labels; set it to none."
    either = f" nor a label folder {root / names.labels}" if names.labels else ""
    return (
        f"{asked} there is no panoptic annotation file {root / names.panoptic}{either}:"
        " add it and the folder of PNGs of the same name, or set config.data.semantic"
        " to none."
    )


def void_values(data_config: Any) -> tuple[int, ...]:
    """config.data.label_void, checked."""
    void = tuple(data_config.label_void)
    if any(not 0 <= value < 2**16 for value in void):
        raise DataError(
            f"config.data.label_void is {void}: these are values of PNG pixels, 0 to"
            " 65535."
        )
    return void
