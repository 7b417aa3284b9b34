"""Digests of what a prepared set was made from."""

import hashlib
import os
import pathlib
from typing import Any

from agvm_jax.data.errors import DataError


def digest(*parts: Any) -> str:
    """Hex sha256 of the parts' repr."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def file_digest(path: pathlib.Path) -> str:
    """Hex sha256 of a file's content.

    Raises:
      DataError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None


def listing(folder: pathlib.Path) -> list[tuple[str, int]]:
    """Names and sizes of the files that lie directly in a folder, sorted.

    Neither the folder's place nor times are in it: a data set that is moved or copied
    stays prepared.

    Raises:
      DataError: the folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(
                (entry.name, entry.stat().st_size)
                for entry in entries
                if entry.is_file()
            )
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}.") from None
