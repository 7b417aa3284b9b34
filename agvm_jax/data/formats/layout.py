"""Which builder reads a folder, found out from what lies in it."""

import pathlib
from typing import Any

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.formats.coco_builders import ROBOFLOW
from agvm_jax.data.formats.yolo_layout import find_yaml, find_yolo, is_yolo

AUTO = "auto"  # the value of config.data.name that asks for it


def detect_layout(root: pathlib.Path, data_config: Any) -> str:
    """The name of the builder for a folder, by its training split.

    The names that the config gives to files and folders are looked for. Label PNGs
    beside COCO annotations belong to those.

    Raises:
      DataError: the folder is of no known layout, or of two.
    """
    config = data_config
    annotations = root / config.train_annotations
    if not annotations.is_file():
        annotations = root / "train" / ROBOFLOW
    labels = root / config.train_images, root / config.train_labels
    found = [
        name
        for name, there in (
            ("coco", (root / "annotations" / "instances_train2017.json").is_file()),
            ("coco_folder", annotations.is_file()),
            (
                "lvis",
                (root / "annotations" / "lvis_v1_train.json").is_file()
                or (root / "lvis_v1_train.json").is_file(),
            ),
            (
                "ade20k",
                (root / "images" / "training").is_dir()
                and (root / "annotations" / "training").is_dir(),
            ),
            (
                "label_folder",
                all(folder.is_dir() for folder in labels) and not annotations.is_file(),
            ),
            ("yolo", is_yolo(root)),
        )
        if there
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(
            f"{root} could be read as {' or as '.join(found)}: say which with"
            f" --config.data.name={found[0]}, for one."
        )
    if find_yaml(root):
        find_yolo(root)  # raises, and says what is wrong with it
    raise DataError(
        f"{root} is of no layout that is known. For training it would hold"
        " annotations/instances_train2017.json (coco),"
        f" {config.train_annotations} and {config.train_images}/, or"
        f" train/{ROBOFLOW} (coco_folder),"
        " annotations/lvis_v1_train.json (lvis), images/training/ and"
        " annotations/training/ (ade20k),"
        f" {config.train_images}/ and {config.train_labels}/ (label_folder), or"
        " images/train/ and labels/train/, or a data.yaml that names such folders"
        " (yolo). Put it so, or set"
        " --config.data.name=NAME and the keys of config.data that name files."
    )
