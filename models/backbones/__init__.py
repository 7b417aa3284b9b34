"""Backbones: what they share is the protocol below; `models/build.py` lists them."""

from collections.abc import Mapping
from typing import Protocol

import jax


class Backbone(Protocol):
    """From images to feature maps of four sizes.

    Output "c2" stands for 4 pixels of the image a place, each way; "c3", "c4" and "c5"
    for 8, 16 and 32. A side of n pixels gives ceil(n / 2^i) places.
    """

    @property
    def channels(self) -> Mapping[str, int]:
        """Channels of each output, finest first: {"c2": ..., ..., "c5": ...}."""

    def freeze(self, parts: int) -> None:
        """Keep the first of five parts as they are: 1 the stem, 5 all of it.

        Raises:
          ValueError: there are not as many.
        """

    def __call__(
        self, images: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """Map normalised images (B, H, W, 3) to {"c2".."c5"}: (B, h, w, C).

        Args:
          images: float32.
          train: BatchNorm uses the batch's statistics, drop path leaves branches out.
          key: decides which; one that needs it raises a ValueError without.
        """
