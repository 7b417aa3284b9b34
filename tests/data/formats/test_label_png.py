"""Label PNGs of every kind: the class numbers that they store, or a sentence."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.formats.label_png import label_size, read_label_map

NAMES = tuple("abcdefghijklmno")
VALUES = np.array([[0, 1, 2, 3], [3, 2, 1, 0], [1, 1, 3, 3]])


def read(data, tmp_path, values=VALUES, **options):
    path = tmp_path / "label.png"
    path.write_bytes(data)
    assert label_size(path) == values.shape
    options = {"size": values.shape, "names": NAMES, "void": ()} | options
    return read_label_map(path, **options)


def png(values, depth, kind=0):
    """A PNG by its definition, of grey levels (0) or palette indices (3)."""

    def chunk(name, body):
        crc = zlib.crc32(name + body)
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", crc)

    height, width = values.shape
    bits = np.array([f"{v:0{depth}b}" for v in values.ravel()]).reshape(values.shape)
    rows = [b"\0" + pad_to_bytes("".join(row)) for row in bits]
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
        + (
            chunk(b"PLTE", bytes(k % 251 for k in range(3 * 2**depth)))
            if kind == 3
            else b""
        )
        + chunk(b"IDAT", zlib.compress(b"".join(rows)))
        + chunk(b"IEND", b"")
    )


def pad_to_bytes(bits):
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))


def test_a_palette_png_as_pascal_vocs_holds_its_indices(tmp_path):
    indices = np.where(VALUES == 3, 255, VALUES).astype(np.uint8)
    image = Image.frombytes("P", VALUES.shape[::-1], indices.tobytes())
    colours = np.random.default_rng(0).permutation(768) % 256
    image.putpalette(colours.astype(np.uint8).tobytes())
    for more in ({}, {"transparency": 1}):
        file = io.BytesIO()
        image.save(file, "PNG", **more)
        found = read(file.getvalue(), tmp_path, void=(255,))
        np.testing.assert_array_equal(found, np.where(VALUES == 3, -1, VALUES))


@pytest.mark.parametrize(
    ("depth", "kind"),
    [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (1, 3), (2, 3), (4, 3), (8, 3)],
)
def test_grey_levels_and_indices_of_any_depth_are_read_as_they_are(
    depth, kind, tmp_path
):
    values = np.arange(12).reshape(3, 4) % min(2**depth, len(NAMES))
    found = read(png(values, depth, kind), tmp_path, values)
    np.testing.assert_array_equal(found, values)


def test_sixteen_bits_hold_more_than_256_classes(tmp_path):
    values = np.array([[0, 299], [256, 65535]])
    names = tuple(str(k) for k in range(300))
    found = read(png(values, 16), tmp_path, values, names=names, void=(65535,))
    np.testing.assert_array_equal(found, [[0, 299], [256, -1]])


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_colours_are_no_classes(channels, tmp_path):
    pixels = np.zeros((*VALUES.shape, channels), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    with pytest.raises(DataError, match="holds colours.* or with a palette whose indi"):
        read(file.getvalue(), tmp_path)


def test_a_damaged_file_is_named_with_the_reason(tmp_path):
    data = bytearray(cv2.imencode(".png", np.eye(64, dtype=np.uint8))[1].tobytes())
    at = data.index(b"IDAT") + 12
    data[at] ^= 255
    with pytest.raises(DataError, match=r"label.png cannot be decoded \("):
        read(bytes(data), tmp_path, np.zeros((64, 64)))
