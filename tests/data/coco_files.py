"""Pieces of COCO folders that tests of the data wing are made from."""

import base64
import json
import struct

import cv2
import numpy as np

from agvm_jax.data.formats.coco_json import read_coco

# 16 x 8, Adobe CMYK, left half red, right half cyan.
CMYK_JPEG = base64.b64decode(
    "/9j/7gAOQWRvYmUAZAAAAAAA/9sAQwACAQEBAQECAQEBAgICAgIEAwICAgIFBAQDBAYFBgYGBQYGBgcJ"
    "CAYHCQcGBggLCAkKCgoKCgYICwwLCgwJCgoK/8AAFAgACAAQBEMRAE0RAFkRAEsRAP/EAB8AAAEFAQEB"
    "AQEBAAAAAAAAAAABAgMEBQYHCAkKC//EALUQAAIBAwMCBAMFBQQEAAABfQECAwAEEQUSITFBBhNRYQci"
    "cRQygZGhCCNCscEVUtHwJDNicoIJChYXGBkaJSYnKCkqNDU2Nzg5OkNERUZHSElKU1RVVldYWVpjZGVm"
    "Z2hpanN0dXZ3eHl6g4SFhoeIiYqSk5SVlpeYmZqio6Slpqeoqaqys7S1tre4ubrCw8TFxsfIycrS09TV"
    "1tfY2drh4uPk5ebn6Onq8fLz9PX29/j5+v/aAA4EQwBNAFkASwAAPwD9/K/n/r+f+v38r+AOv7/K/v8A"
    "KK//2Q=="
)


def noise_png(height, width, seed=0):
    """An encoded picture of random pixels; 20 x 30 where no size is given."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height or 20, width or 30, 3), np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


def label_png(values):
    """An encoded label map of at most 256 classes, or more in a uint16 array."""
    values = np.asarray(values)
    values = values if values.dtype == np.uint16 else values.astype(np.uint8)
    return cv2.imencode(".png", values)[1].tobytes()


def read(content, tmp_path, **options):
    """What `read_coco` makes of a dictionary, or of the bytes of a file."""
    path = tmp_path / "annotations.json"
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    path.write_bytes(data)
    return read_coco(path, **options)


def annotation(i, image_id, category_id, bbox, **more):
    return {
        "id": i,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": bbox,
        **more,
    }


def run_lengths(mask):
    """(h, w) bool -> COCO's uncompressed run lengths, pixel by pixel.

    They go down the columns and begin with zeros.
    """
    counts, shown = [0], False
    for pixel in np.asarray(mask).T.ravel().tolist():
        if pixel != shown:
            counts.append(0)
            shown = pixel
        counts[-1] += 1
    return {"size": list(np.shape(mask)), "counts": counts}


def with_masks(two_images):
    """The dictionary with a polygon, run lengths and again a polygon."""
    first, crowd, second = two_images["annotations"]
    first["segmentation"] = [[1, 2, 11, 2, 11, 7, 1, 7]]
    mask = np.zeros((20, 30), bool)
    mask[4:9, 5:20] = True
    crowd["segmentation"] = run_lengths(mask)
    second["segmentation"] = [[2, 2, 6, 2, 6, 6, 2, 6], [3, 3, 4, 4]]
    return two_images


def with_orientation(jpeg, orientation):
    """The JPEG with an EXIF segment that says how to turn it."""
    tiff = b"MM\x00\x2a\x00\x00\x00\x08\x00\x01" + struct.pack(
        ">HHIHHI", 0x0112, 3, 1, orientation, 0, 0
    )
    body = b"Exif\x00\x00" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]
