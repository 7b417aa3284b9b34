"""LVIS v1, whose images are those of COCO 2017, in the folders of both splits.

Its annotation files name images by their URL, and say which categories were looked for
in each; `coco_json` reads that too.
"""

import dataclasses
import pathlib
from typing import Any

from agvm_jax.data.augment.decode import Annotated
from agvm_jax.data.formats.coco_folder import SplitNames, split_origins
from agvm_jax.data.formats.files import Sign, require_folder, root_of
from agvm_jax.data.storage.records import MakeOrigin

_ANNOTATIONS = "lvis_v1_{split}.json"


def recognises(root: pathlib.Path, data_config: Any) -> Sign:
    """By the annotation file of the training split, in either place."""
    del data_config
    name = _ANNOTATIONS.format(split="train")
    found = any((root / place / name).is_file() for place in ("annotations", ""))
    return Sign(found, f"annotations/{name}")


def origins(data_config: Any) -> MakeOrigin:
    """Both splits; the folders of all of COCO's images count for each."""
    remedy = (
        "set --config.data.root=PATH to a folder with train2017/ and val2017/ of COCO\n"
        "2017, and lvis_v1_train.json and lvis_v1_val.json there or in annotations/"
    )
    root = root_of(data_config, remedy)
    for folder in ("train2017", "val2017"):
        require_folder(root / folder, "image", remedy)
    layout = {}
    for split in ("train", "val"):
        name = _ANNOTATIONS.format(split=split)
        inside = (root / "annotations" / name).is_file()
        layout[split] = SplitNames(f"annotations/{name}" if inside else name, "")
    make = split_origins("lvis", data_config, layout, Annotated.STORED, remedy)
    listed = (root / "train2017", root / "val2017")
    return lambda split, categories: dataclasses.replace(
        make(split, categories), listed=listed
    )
