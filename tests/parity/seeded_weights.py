"""Weights and inputs for the parity tests, made from names alone (NumPy only).

The oracle and the test run in two environments that share no framework. Both call this
file, so nothing large is stored. Scales are such that activations stay near 1 through
fifty layers and that a few hundred detections survive.
"""

import zlib

import numpy as np

NUM_CLASSES = 7
# So few that the finest level has more candidates, and two of the three pictures more
# detections, than are let through.
PRE_NMS_TOP_K = 150
MAX_DETECTIONS = 120
CANVAS = (128, 160)
PICTURES = ((128, 160), (96, 130), (128, 100))  # height, width
# x1 y1 x2 y2 and class of each picture's objects. The second has one smaller than any
# anchor, which only a low-quality match finds; the third has none.
OBJECTS = (
    ((10, 12, 60, 70, 1), (70.5, 20.25, 150, 100, 4), (40, 60, 95, 125, 1)),
    ((5, 5, 9.5, 8, 6), (30, 20, 110, 90, 2)),
    (),
)

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


def make_pictures() -> list[np.ndarray]:
    """Return one (height, width, 3) uint8 picture for each entry of PICTURES."""
    pictures = []
    for index, (height, width) in enumerate(PICTURES):
        rng = np.random.default_rng(index)
        coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3))
        smooth = np.repeat(np.repeat(coarse, 8, axis=0), 8, axis=1)[:height, :width]
        noise = rng.integers(-20, 21, smooth.shape)
        pictures.append(np.clip(smooth + noise, 0, 255).astype(np.uint8))
    return pictures
