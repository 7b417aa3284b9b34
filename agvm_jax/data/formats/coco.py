"""COCO 2017 as it comes out of its archives."""

import pathlib
from typing import Any

from agvm_jax.data.augment.decode import Annotated
from agvm_jax.data.formats.coco_folder import SplitNames, split_origins
from agvm_jax.data.formats.files import Sign
from agvm_jax.data.storage.records import MakeOrigin

_ANNOTATIONS = "annotations/instances_{split}2017.json"


def recognises(root: pathlib.Path, data_config: Any) -> Sign:
    """By the annotation file of the training split."""
    del data_config
    name = _ANNOTATIONS.format(split="train")
    return Sign((root / name).is_file(), name)


def origins(data_config: Any) -> MakeOrigin:
    """Both splits, with the panoptic annotations where labels are asked for."""
    remedy = (
        "set --config.data.root=PATH to a folder with train2017/, val2017/ and"
        " annotations/ of\nCOCO; `python -m agvm_jax.data.tools.download coco PATH`"
        " makes one"
    )
    layout = {
        split: SplitNames(
            _ANNOTATIONS.format(split=split),
            f"{split}2017",
            f"annotations/panoptic_{split}2017.json",
        )
        for split in ("train", "val")
    }
    return split_origins("coco", data_config, layout, Annotated.STORED, remedy)
