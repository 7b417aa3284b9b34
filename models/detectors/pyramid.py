"""What all detectors on a feature pyramid share: from images to features."""

from collections.abc import Sequence

import jax
from flax import nnx

from agvm_jax.structures import Batch

from ..features import Features
from ..fpn import FPN
from ..looks import TestConfig
from ..ops.images import normalize_images
from ..views import View

# Of ImageNet's red, green and blue, as torchvision has them.
IMAGE_MEAN = (123.675, 116.28, 103.53)
IMAGE_STD = (58.395, 57.12, 57.375)


class PyramidDetector(nnx.Module):
    """A backbone and a feature pyramid; a detector adds the heads that read it.

    A child has the method `loss(batch, key) -> (scalar, parts)`, the method
    `predict(batch) -> Predictions`, and `outputs`, which of "boxes", "masks" and
    "semantic" these predictions have.

    Args:
      backbone: images (B, H, W, 3) -> features, called with `train=` and `key=`.
      fpn: features -> {level: (B, h, w, C)}, finest first.
      image_mean: of red, green, blue, on the scale 0 to 255.
      image_std: on the same scale.
      test_cfg: how images are looked at in `predict`.
    """

    outputs: frozenset[str]

    def __init__(
        self,
        backbone: nnx.Module,
        fpn: FPN,
        *,
        image_mean: Sequence[float] = IMAGE_MEAN,
        image_std: Sequence[float] = IMAGE_STD,
        test_cfg: TestConfig = TestConfig(),  # noqa: B008, it is frozen
    ):
        self.backbone = backbone
        self.fpn = fpn
        self.image_mean = tuple(image_mean)
        self.image_std = tuple(image_std)
        self.test_cfg = test_cfg

    def features(
        self, batch: Batch, *, train: bool, key: jax.Array | None = None
    ) -> Features:
        """Return the pyramid of the images.

        Args:
          batch: images and their sizes.
          train: BatchNorm uses the batch's own statistics and keeps account of them.
          key: decides what a backbone with drop path leaves out in training.
        """
        images = normalize_images(
            batch.image, batch.image_size, self.image_mean, self.image_std
        )
        stages = self.backbone(images, train=train, key=key)
        return Features(
            levels=list(self.fpn(stages).values()),
            image_size=batch.image_size,
            strides=self.fpn.strides,
        )

    def looks(self, batch: Batch) -> list[tuple[View, Features]]:
        """Return each view that `test_cfg` asks for, and the pyramid that it gives."""
        return [
            (view, self.features(view.of(batch), train=False))
            for view in self.test_cfg.views
        ]
