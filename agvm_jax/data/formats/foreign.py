"""Layouts that are not read but that others convert: recognised, to say so."""

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
