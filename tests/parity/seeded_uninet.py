"""Networks, weights and images for the parity of UniNet (NumPy only)."""

import zlib
from typing import NamedTuple

import numpy as np
from seeded_weights import make_tensor

STRIDES = (1, 2, 2, 2, 1, 2)
EXPANSIONS = (1, 4, 6, 3, 2, 5)
# Odd sides at every level: 15 x 23, 8 x 12, 4 x 6, 2 x 3, 2 x 3, 1 x 2.
CANVAS = (30, 46)
IMAGES = 2


class Net(NamedTuple):
    """What `models.backbones.uninet.Architecture` says, for both sides."""

    repeats: tuple[int, ...]
    channels: tuple[int, ...]
    stem: int
    head_channels: int
    blocks: tuple[str, ...]
    modules: bool


# Between them: every kind of block and module, with a stride and without, with an
# expansion and without, blocks in a stack and by themselves.
NETS = {
    "modules": Net(
        *((1, 2, 1, 1, 2, 1), (4, 8, 8, 12, 16, 16), 6, 8),
        ("mb",) * 4 + ("attention",) * 2,
        True,
    ),
    "strided": Net(
        *((2, 2, 2, 1, 2, 2), (4, 8, 8, 16, 16, 24), 6, 8),
        ("fused", "fused", "mb", "mb", "covariance", "attention"),
        False,
    ),
}


def make_uninet_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the float32 tensor of the released code's parameter `name`."""
    kind = name.rpartition(".")[2]
    if kind in ("gamma_1", "gamma_2", "temperature"):
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        return rng.uniform(0.7, 1.3, shape).astype(np.float32)
    return make_tensor(name, shape)


def make_images() -> np.ndarray:
    """Return normalised images, (B, height, width, 3) float32."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(IMAGES, *CANVAS, 3)).astype(np.float32)
