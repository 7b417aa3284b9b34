"""Semantic FPN: a feature pyramid and the semantic head, nothing else.

Kirillov et al., "Panoptic Feature Pyramid Networks", CVPR 2019. At evaluation an image
is seen whole, or in overlapping windows, and also mirrored if asked, as
mmsegmentation's `test_cfg` has it.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from agvm_jax.structures import Batch, Predictions

from ..features import Features
from ..fpn import FPN
from ..heads.semantic import STRIDE, SemanticHead
from ..ops.images import normalize_images
from .pyramid import PyramidDetector


class SemanticFPN(PyramidDetector):
    """The class of each pixel; its modules are `backbone`, `fpn` and `semantic_head`.

    Args:
      backbone, fpn, images: as of `PyramidDetector`; the pyramid begins with P2.
      semantic_head: reads P2 to P5.
    """

    outputs = frozenset({"semantic"})

    def __init__(
        self,
        backbone: nnx.Module,
        fpn: FPN,
        semantic_head: SemanticHead,
        **images,
    ):
        super().__init__(backbone, fpn, **images)
        self.semantic_head = semantic_head

    def loss(
        self, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return the training loss and its one part, "semantic".

        Args:
          batch: images and label maps; boxes are not looked at.
          key: decides what a backbone with drop path leaves out.

        Raises:
          ValueError: the batch has no label maps.
        """
        features = self.features(batch, train=True, key=key)
        parts = self.semantic_head.loss(features, batch)
        return sum(parts.values()), parts

    def predict(self, batch: Batch) -> Predictions:
        """Return `semantic`, the class of each pixel: see `SemanticHead.labels`."""
        labels = self.semantic_head.labels(self.logits(batch), batch.image.shape[1:3])
        return Predictions(semantic=labels)

    def logits(self, batch: Batch) -> jax.Array:
        """Return logits (B, ceil(H / 4), ceil(W / 4), K) as `test_cfg` asks for them.

        Raises:
          ValueError: windows or mirroring, and sides that are no multiples of 4.
        """
        grid = tuple(-(-side // STRIDE) for side in batch.image.shape[1:3])
        total = 0.0
        for view in self.test_cfg.sizes:
            logits = self._logits_at(view.of(batch))
            total += view.cells_back(logits, batch.image_size, grid, STRIDE)
        return total

    def _logits_at(self, batch: Batch) -> jax.Array:
        """Return the logits of images of one size, whole or in windows."""
        images = normalize_images(
            batch.image, batch.image_size, self.image_mean, self.image_std
        )
        settings = self.test_cfg
        if settings.mode == "whole" and not settings.flip:
            return self._logits_of(images, batch.image_size)
        height, width = images.shape[1:3]
        if height % STRIDE or width % STRIDE:
            raise ValueError(
                f"an input of {height}x{width} pixels cannot be seen in windows or"
                f" mirrored: choose an image_size whose sides are multiples of {STRIDE}"
            )
        if settings.mode == "whole":
            return self._both_ways(images, batch.image_size)
        return self._slide(images, batch.image_size)

    def _logits_of(self, images: jax.Array, image_size: jax.Array) -> jax.Array:
        stages = self.backbone(images, train=False)
        levels = list(self.fpn(stages).values())
        return self.semantic_head(Features(levels, image_size, self.fpn.strides))

    def _both_ways(self, images: jax.Array, image_size: jax.Array) -> jax.Array:
        logits = self._logits_of(images, image_size)
        if self.test_cfg.flip:
            mirrored = self._logits_of(images[:, :, ::-1], image_size)
            logits = logits + mirrored[:, :, ::-1]
        return logits

    def _slide(self, images: jax.Array, image_size: jax.Array) -> jax.Array:
        """Return the mean of the logits of all windows that each cell lies in."""
        batch, height, width, _ = images.shape
        crop = [
            min(n, side)
            for n, side in zip(self.test_cfg.crop_size, (height, width), strict=True)
        ]
        (tops, in_height), (lefts, in_width) = (
            window_starts(sizes, side, n, step)
            for sizes, side, n, step in zip(
                image_size.T, (height, width), crop, self.test_cfg.stride, strict=True
            )
        )
        grid = math.prod((tops.shape[1], lefts.shape[1]))
        rows, columns = jnp.divmod(jnp.arange(grid), lefts.shape[1])
        shape = batch, height // STRIDE, width // STRIDE

        def add(sums, place):
            row, column = place
            starts = tops[:, row], lefts[:, column]
            window = jax.vmap(
                lambda image, y, x: lax.dynamic_slice(image, (y, x, 0), (*crop, 3))
            )(images, *starts)
            logits = self._both_ways(window, image_size)
            weight = (in_height[:, row] & in_width[:, column]).astype(jnp.float32)
            weight = jnp.broadcast_to(
                weight[:, None, None, None], (*logits.shape[:3], 1)
            )
            new = jnp.concatenate([weight * logits, weight], axis=-1)
            return jax.vmap(_add_at)(sums, new, *(s // STRIDE for s in starts)), None

        sums = jnp.zeros((*shape, self.semantic_head.num_classes + 1))
        sums, _ = lax.scan(add, sums, (rows, columns))
        # Cells outside the image may lie in no window.
        return sums[..., :-1] / jnp.maximum(sums[..., -1:], 1.0)


def window_starts(
    sizes: jax.Array, side: int, crop: int, stride: int
) -> tuple[jax.Array, jax.Array]:
    """Return where windows begin along one axis, and which of them an image needs.

    Args:
      sizes: (B,) int, pixels of each image.
      side: pixels of the input, at least `crop`.
      crop: pixels of a window.
      stride: pixels from one to the next.

    Returns:
      (B, n) int, multiples of 4, and (B, n) bool: as many as the largest image needs.
    """
    count = -(-(side - crop) // stride) + 1
    # The last one ends at the image's border, or less than a cell behind it.
    last = -(-jnp.maximum(sizes - crop, 0) // STRIDE) * STRIDE
    steps = jnp.arange(count) * stride
    starts = jnp.minimum(steps, last[:, None])
    needed = (steps == 0) | (steps - stride < last[:, None])
    return starts, needed


def _add_at(sums: jax.Array, new: jax.Array, row: jax.Array, column: jax.Array):
    """Add (h, w, C) to a part of (H, W, C)."""
    start = (row, column, 0)
    old = lax.dynamic_slice(sums, start, new.shape)
    return lax.dynamic_update_slice(sums, old + new, start)
