"""Pieces of COCO folders that tests of the data wing are made from."""

import struct

import cv2
import numpy as np


def noise_png(height, width, seed=0):
    """An encoded picture of random pixels; 20 x 30 where no size is given."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height or 20, width or 30, 3), np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


def annotation(i, image_id, category_id, bbox, **more):
    return {
        "id": i,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": bbox,
        **more,
    }


def with_orientation(jpeg, orientation):
    """The JPEG with an EXIF segment that says how to turn it."""
    tiff = b"MM\x00\x2a\x00\x00\x00\x08\x00\x01" + struct.pack(
        ">HHIHHI", 0x0112, 3, 1, orientation, 0, 0
    )
    body = b"Exif\x00\x00" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]
