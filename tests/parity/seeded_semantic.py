"""Inputs and weights of the semantic head's parity test, from names alone (NumPy)."""

import zlib

import numpy as np

NUM_CLASSES = 5
CHANNELS = 16
GROUPS = 4
IN_CHANNELS = 8
# An input whose sides are multiples of 32, and one of which only 4 is a divisor.
SIZES = ((64, 96), (52, 76))
IMAGES = 2


def seeded(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A float32 array that depends on its name and shape alone."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    values = rng.normal(size=shape)
    if name.endswith("norm.weight"):
        values = 1 + 0.2 * values
    elif name.endswith("weight"):
        values *= np.sqrt(2 / np.prod(shape[1:]))
    else:
        values *= 0.3 if name.endswith("bias") else 1
    return values.astype(np.float32)


def make_levels(size: tuple[int, int]) -> list[np.ndarray]:
    """P2 to P5 of an input, (B, h, w, C) each."""
    return [
        seeded(
            f"p{level} of {size}",
            (IMAGES, -(-size[0] // 2**level), -(-size[1] // 2**level), IN_CHANNELS),
        )
        for level in (2, 3, 4, 5)
    ]


def make_labels(size: tuple[int, int]) -> np.ndarray:
    """(B, H, W) int64 labels in patches of 5 pixels, -1 for void."""
    rng = np.random.default_rng(size[0])
    patches = rng.integers(-1, NUM_CLASSES, (IMAGES, *(-(-s // 5) for s in size)))
    return patches.repeat(5, 1).repeat(5, 2)[:, : size[0], : size[1]]
