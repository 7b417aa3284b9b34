"""Label PNGs: a class number in each pixel, as grey levels or as palette indices."""

import io
import pathlib

import numpy as np

from agvm_jax.data.annotations.errors import DataError, UnreadableImage
from agvm_jax.data.augment.decode import check_whole
from agvm_jax.data.augment.pillow import opened

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
    height, width, *_ = _head(_read(path, 33), path)
    return height, width


def _read_values(path: pathlib.Path) -> np.ndarray:
    """(h, w) integers: what the file stores, be it grey levels or palette indices.

    The palette's colours, as those of Pascal VOC, are for people.
    """
    data = _read(path)
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


def _read(path: pathlib.Path, count: int = -1) -> bytes:
    """The file, or its first `count` bytes."""
    try:
        with open(path, "rb") as file:
            return file.read(count)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
