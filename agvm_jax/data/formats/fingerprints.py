"""Digests of what a prepared set was made from."""

import hashlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.augment.decode import IMAGES


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
    """Names and sizes of the files in a folder and in those below it, sorted.

    Names are relative to it, with slashes. Neither the folder's place nor times are in
    it: a data set that is moved or copied stays prepared.

    Raises:
      DataError: the folder cannot be read.
    """
    try:
        return sorted(_walk(folder, "", frozenset()))
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}.") from None


def _walk(
    folder: str | os.PathLike, prefix: str, above: frozenset[tuple[int, int]]
) -> Iterator[tuple[str, int]]:
    """Links are followed, but for one that leads to a folder above itself."""
    stat = os.stat(folder)
    above |= {(stat.st_dev, stat.st_ino)}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_file():
                yield prefix + entry.name, entry.stat().st_size
            elif entry.is_dir():
                stat = os.stat(entry.path)
                if (stat.st_dev, stat.st_ino) not in above:
                    yield from _walk(entry.path, f"{prefix}{entry.name}/", above)


def image_names(folder: pathlib.Path) -> list[str]:
    """Names of the images in a folder and in those below it, by their endings.

    What begins with a dot is left out: systems hide it, and macOS archives hold such a
    file beside every image.
    """
    return [
        name
        for name, _ in listing(folder)
        if pathlib.PurePosixPath(name).suffix.lower() in IMAGES
        and not any(part.startswith(".") for part in name.split("/"))
    ]
