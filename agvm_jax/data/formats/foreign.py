"""Layouts that are not read, or not under their names: recognised, to say so."""

import itertools
import pathlib
import re

from agvm_jax.data.formats.files import read_file

LOOKED_AT = 3  # files of a folder
HEAD = 4096  # bytes of each


def foreign_name(root: pathlib.Path) -> str:
    """Returns "Pascal VOC", "CVAT" or "LabelMe", "" for none of them.

    Args:
      root: a folder; the first files of it and of the folders in it are looked at.
    """
    for pattern, sign, name in (
        ("Annotations/*.xml", rb"<annotation[\s>]", "Pascal VOC"),
        ("*.xml", rb"<annotation[\s>]", "Pascal VOC"),
        ("*.xml", rb"<annotations[\s>]", "CVAT"),
        ("*.json", rb'"shapes"', "LabelMe"),
        ("*/*.json", rb'"shapes"', "LabelMe"),
    ):
        for path in itertools.islice(root.glob(pattern), LOOKED_AT):
            if path.is_file() and re.search(sign, read_file(path, HEAD)):
                return name
    return ""


def label_folders(root: pathlib.Path, images: str) -> list[str]:
    """Returns the folders whose PNGs have the names of a folder's images.

    Args:
      root: of the data set.
      images: the name of the folder of images in it.
    """
    if not (root / images).is_dir():
        return []
    names = sorted(path.stem for path in (root / images).iterdir())[:LOOKED_AT]
    return sorted(
        path.name
        for path in root.iterdir()
        if path.is_dir()
        and path.name != images
        and names
        and all((path / f"{name}.png").is_file() for name in names)
    )
