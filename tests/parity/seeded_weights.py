"""Weights and inputs for the parity tests, made from names alone (NumPy only).

The oracle and the test run in two environments that share no framework. Both call this
file, so nothing large is stored. Scales are such that activations stay near 1 through
fifty layers and that a few hundred detections survive.
"""

import zlib
from typing import NamedTuple

import numpy as np

NUM_CLASSES = 7
# So few that the finest level has more candidates, and one of the three images more
# detections, than are let through.
PRE_NMS_TOP_K = 150
MAX_DETECTIONS = 100
# The same of Faster R-CNN. All anchors (10 thousand at most) and all proposals fit into
# its samples, half or a quarter of which may be objects.
RCNN_PRE_NMS_TOP_K = 200
RCNN_POST_NMS_TOP_K = 90
RCNN_MAX_DETECTIONS = 60
RCNN_SAMPLES = 20_000
# Of the outputs is stored:
ANCHORS_EVERY = 97  # one anchor in so many
ROIS = 6  # the box head's outputs for so many proposals of each image
MASKS = 5  # the masks of so many detections of each image
CELLS_EVERY = 4  # one cell of a mask in so many, along each side
# torchvision's anchors stand on the cells of a map only where the stride divides the
# canvas (see `models.ops.anchors`): RetinaNet's coarsest is 128, that of the RPNs 64.
CANVAS = (64, 256)
IMAGE_SIZES = ((64, 256), (50, 130), (64, 100))  # height, width
# x1 y1 x2 y2 and class of each image's objects. The second has one smaller than any
# anchor, which only a low-quality match finds; the third has none.
OBJECTS = (
    ((10, 12, 60, 63, 1), (70.5, 10.25, 150, 60, 4), (40, 20, 95, 62, 1)),
    ((5, 5, 9.5, 8, 6), (30, 8, 110, 45, 2)),
    (),
)


class Scene(NamedTuple):
    """Images of several sizes on one canvas; sizes are height, width."""

    canvas: tuple[int, int]
    image_sizes: tuple[tuple[int, int], ...]
    objects: tuple  # of each image, as OBJECTS


_WIDE = {"canvas": (128, 192), "image_sizes": ((128, 192), (96, 130), (128, 100))}
_TALL = Scene(
    canvas=(192, 64),
    image_sizes=((192, 64), (150, 49)),
    objects=(
        ((4, 16, 52, 104, 3), (12, 100, 60, 180, 0), (30, 40, 54, 64, 5)),
        ((6, 30, 46, 126, 6),),
    ),
)
FASTER_RCNN_SCENES = {
    "wide": Scene(
        **_WIDE,
        objects=(
            ((10, 12, 60, 70, 1), (70.5, 20.25, 150, 100, 4), (40, 60, 95, 125, 1)),
            ((5, 5, 9.5, 8, 6), (30, 20, 110, 90, 2)),
            (),
        ),
    ),
    "tall": _TALL,
}
# With masks, the sides of objects are multiples of MASK_SIDE, so that a mask of so many
# cells over its box is a bitmap, exactly.
MASK_SIDE = 8
MASK_RCNN_SCENES = {
    "wide": Scene(
        **_WIDE,
        objects=(
            ((10, 12, 58, 68, 1), (70, 20, 150, 100, 4), (40, 60, 96, 124, 1)),
            ((5, 5, 13, 13, 6), (30, 20, 110, 92, 2)),
            (),
        ),
    ),
    "tall": _TALL,
}

# What the general rule is multiplied by, for names that contain the key.
_GAINS = {
    "bn3.weight": 0.3,  # the last of each residual branch: keeps the sum from growing
    "inner_blocks": 0.1,
    "cls_logits.weight": 0.25,
    "bbox_reg.weight": 0.3,
}


def make_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the float32 tensor that belongs to torchvision's parameter `name`."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    kind = name.rpartition(".")[2]
    if kind == "running_var":
        values = rng.uniform(0.5, 1.5, shape)
    elif kind == "weight" and len(shape) == 1:
        values = rng.uniform(0.7, 1.3, shape)
    elif kind == "weight":
        values = rng.normal(0.0, np.sqrt(2.0 / np.prod(shape[1:])), shape)
    else:  # biases and running means
        values = rng.normal(0.0, 0.1, shape)
    for part, gain in _GAINS.items():
        if part in name:
            values = values * gain
    if name.endswith("cls_logits.bias"):
        values = values - 4.5  # a few hundred scores above the threshold
    return values.astype(np.float32)


def make_rcnn_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the float32 tensor of torchvision's Faster R-CNN parameter `name`.

    The last layers are made quieter, so that boxes stay near their proposals and
    scores spread over the threshold.
    """
    gains = {
        "rpn.head.cls_logits.bias": 0.0,  # undoes the shift of RetinaNet's scores
        "rpn.head.cls_logits.weight": 4.0,
        "rpn.head.bbox_pred.weight": 0.2,
        "box_predictor.cls_score.weight": 1.5,
        "box_predictor.bbox_pred.weight": 0.5,
    }
    values = make_tensor(name, shape)
    for part, gain in gains.items():
        if part in name:
            values = values * np.float32(gain)
    return values


def make_masks(objects_of) -> list[np.ndarray]:
    """Return (n, MASK_SIDE, MASK_SIDE) uint8 masks for each image's n objects."""
    rng = np.random.default_rng(0)
    shape = (MASK_SIDE, MASK_SIDE)
    return [
        (rng.random((len(objects), *shape)) < 0.7).astype(np.uint8)
        for objects in objects_of
    ]


def make_bitmaps(scene: Scene) -> list[np.ndarray]:
    """Return the same masks as (n, height, width) uint8 bitmaps of the images."""
    bitmaps = []
    for (height, width), objects, masks in zip(
        scene.image_sizes, scene.objects, make_masks(scene.objects), strict=True
    ):
        of_image = np.zeros((len(objects), height, width), np.uint8)
        for bitmap, (x1, y1, x2, y2, _), mask in zip(
            of_image, objects, masks, strict=True
        ):
            tall = np.repeat(mask, (y2 - y1) // MASK_SIDE, axis=0)
            bitmap[y1:y2, x1:x2] = np.repeat(tall, (x2 - x1) // MASK_SIDE, axis=1)
        bitmaps.append(of_image)
    return bitmaps


def make_images(sizes=IMAGE_SIZES) -> list[np.ndarray]:
    """Return one (height, width, 3) uint8 image for each (height, width)."""
    images = []
    for index, (height, width) in enumerate(sizes):
        rng = np.random.default_rng(index)
        coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3))
        smooth = np.repeat(np.repeat(coarse, 8, axis=0), 8, axis=1)[:height, :width]
        noise = rng.integers(-20, 21, smooth.shape)
        images.append(np.clip(smooth + noise, 0, 255).astype(np.uint8))
    return images


def pick(features: np.ndarray) -> np.ndarray:
    """Return 32 elements of a feature map (B, H, W, C), the same ones for its shape."""
    places = np.random.default_rng(0).integers(features.size, size=32)
    return features.ravel()[places]
