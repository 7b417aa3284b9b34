"""Label PNGs: a class number in each pixel, and the names of the classes."""

import io
import pathlib
from typing import Any

import numpy as np

from agvm_jax.data.annotations.errors import DataError, UnreadableImage
from agvm_jax.data.augment.decode import check_whole, opened
from agvm_jax.data.formats.files import read_file

_UNKNOWN = -2  # a value that is neither a class nor void


def read_label_map(
    path: pathlib.Path,
    size: tuple[int, int],
    names: tuple[str, ...],
    void: tuple[int, ...],
) -> np.ndarray:
    """The classes of a label PNG's pixels.

    Args:
      path: of the PNG.
      size: height and width that it must have; (0, 0) accepts any.
      names: of the classes, which the values that are not void stand for in order.
      void: values without a class.

    Returns:
      (h, w) integers, 0.. for the classes and -1 for void.

    Raises:
      DataError: naming the file and what is wrong with it.
    """
    values = _read_values(path)
    if min(size) > 0 and values.shape != size:
        raise DataError(
            f"The label file {path} has height and width {values.shape}, not {size}."
        )
    table = _table(len(names), void)
    largest = int(values.max())
    if largest >= len(table) or (table[values] == _UNKNOWN).any():
        unknown = [
            v for v in np.unique(values) if v >= len(table) or table[v] == _UNKNOWN
        ]
        raise DataError(
            f"{path} holds the values {[int(v) for v in unknown[:10]]}, but there are"
            f" {len(names)} classes and void is {list(void)}; name all classes, or add"
            " the values to config.data.label_void."
        )
    return table[values]


def label_size(path: pathlib.Path) -> tuple[int, int]:
    """Height and width from the head of a label PNG."""
    height, width, *_ = _head(read_file(path, 33), path)
    return height, width


def _read_values(path: pathlib.Path) -> np.ndarray:
    """(h, w) integers: what the file stores, be it grey levels or palette indices.

    The palette's colours, as those of Pascal VOC, are for people.
    """
    data = read_file(path)
    try:
        check_whole(data)
    except UnreadableImage as error:
        raise DataError(f"The label file {path} {error}.") from None
    _, _, depth, kind = _head(data, path)
    if kind not in (_GREY, _PALETTE):
        raise DataError(
            f"{path} holds colours, and label files hold class numbers: save it with"
            " one channel, or with a palette whose indices are the classes."
        )
    try:
        with opened(io.BytesIO(data)) as picture:
            values = np.asarray(picture).astype(np.int64)
    except Exception as error:  # Pillow raises a dozen kinds for damaged files
        raise DataError(f"The label file {path} cannot be decoded ({error}).") from None
    if kind == _GREY and 1 < depth < 8:
        values //= 255 // (2**depth - 1)  # few bits are stretched to 0..255
    return values


_GREY, _PALETTE = 0, 3  # PNG's colour types


def _head(data: bytes, path: pathlib.Path) -> tuple[int, int, int, int]:
    """Height, width, bits a sample and colour type of a PNG (its IHDR chunk)."""
    if len(data) < 33 or not data.startswith(b"\x89PNG"):
        raise DataError(f"{path} is not a PNG file.")
    width, height = (int.from_bytes(data[a : a + 4], "big") for a in (16, 20))
    return height, width, data[24], data[25]


def _table(classes: int, void: tuple[int, ...]) -> np.ndarray:
    """Value -> class, -1 for void."""
    table = np.full(max([*void, classes + len(void)]) + 1, _UNKNOWN)
    free = (v for v in range(len(table)) if v not in void)
    for k, value in zip(range(classes), free, strict=False):
        table[value] = k
    table[list(void)] = -1
    return table


def read_names(config_names: tuple[str, ...], root: pathlib.Path) -> tuple[str, ...]:
    """Class names: the config's, else the lines of classes.txt, else SceneParse150's.

    Raises:
      DataError: there are none.
    """
    if config_names:
        return tuple(config_names)
    lines = root / "classes.txt"
    if lines.is_file():
        names = read_file(lines).decode("utf-8-sig", "replace").splitlines()
        return tuple(name.strip() for name in names if name.strip())
    table = root / "objectInfo150.txt"
    if table.is_file():  # Idx, Ratio, Train, Val, Name, separated by tabs
        rows = read_file(table).decode("utf-8", "replace").splitlines()[1:]
        return tuple(row.split("\t")[-1].split(",")[0].strip() for row in rows if row)
    raise DataError(
        f"The classes of {root} have no names: write classes.txt there, one name a line"
        " in the order of the label values, or set config.data.label_names."
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
