"""Weights and images for the parity of Swin, made from names alone (NumPy only)."""

import zlib

import numpy as np
from seeded_weights import make_tensor

# Sides of 4 times: 25 x 33, 13 x 17, 7 x 9 and 4 x 5 places, where hardly a window
# fits; and 28 x 56, 14 x 28, 7 x 14, 4 x 7, where most do.
CANVASES = ((100, 132), (112, 224))

# What the general rule is multiplied by, for names that contain the key.
_GAINS = {
    "bias_table": 10.0,  # as large as the logits
    "proj.weight": 0.5,  # the last of each branch: keeps the sum from growing
    "mlp.3.weight": 0.5,
}


def make_swin_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the float32 tensor of torchvision's `swin_t` parameter `name`."""
    values = make_tensor(name, shape)
    for part, gain in _GAINS.items():
        if part in name:
            values = values * np.float32(gain)
    return values


def make_images(canvas: tuple[int, int]) -> np.ndarray:
    """Return a normalised image, (1, height, width, 3) float32."""
    rng = np.random.default_rng(zlib.crc32(repr(canvas).encode()))
    return rng.normal(size=(1, *canvas, 3)).astype(np.float32)
