"""ADE20K as SceneParse150 comes out of its archive: 150 classes, 0 is void."""

import pathlib
from typing import Any

from agvm_jax.data.augment.decode import Annotated
from agvm_jax.data.formats.files import Sign
from agvm_jax.data.formats.label_folder import label_origins
from agvm_jax.data.storage.records import MakeOrigin


def recognises(root: pathlib.Path, data_config: Any) -> Sign:
    """By both folders of the training split."""
    del data_config
    folders = ("images/training", "annotations/training")
    found = all((root / folder).is_dir() for folder in folders)
    return Sign(found, " and ".join(f"{folder}/" for folder in folders))


def origins(data_config: Any) -> MakeOrigin:
    """Both splits."""
    layout = {
        "train": ("images/training", "annotations/training"),
        "val": ("images/validation", "annotations/validation"),
    }
    remedy = (
        "set --config.data.root=PATH to a folder with images/ and annotations/ of\n"
        "SceneParse150; `python -m agvm_jax.data.tools.download ade20k PATH` makes one"
    )
    return label_origins("ade20k", data_config, layout, (0,), Annotated.STORED, remedy)
