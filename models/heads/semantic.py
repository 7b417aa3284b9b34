"""The semantic head: the class of each pixel from the whole pyramid, and its loss.

Kirillov, Girshick, He and Dollar, "Panoptic Feature Pyramid Networks", CVPR 2019,
section 3 and figure 3: each level is brought to stride 4 by stages of a 3x3
convolution, group norm, ReLU and bilinear doubling, the levels are added, and a 1x1
convolution tells the classes. In Panoptic FPN the classes are those of stuff and one
for all things, class 0.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float, Float32, Int

from agvm_jax.structures import Batch

from ..features import Features
from ..layers import Conv
from ..ops.arrays import Array
from ..ops.bilinear import double
from ..ops.pixel_classes import pixel_classes, pixel_cross_entropy
from .ranges import check_ranges

STRIDE = 4  # pixels of the input a cell of the logits stands for
STRIDES = (4, 8, 16, 32)  # of the levels that are read, P2 to P5
# Deviation of the classifier's first weights, as mmsegmentation has it: all classes
# begin about equally likely.
LOGITS_STD = 0.01


class SemanticStage(nnx.Module):
    """A 3x3 convolution, group norm and ReLU, without doubling."""

    def __init__(self, in_channels, channels, *, norm_groups, dtype, rngs: nnx.Rngs):
        self.conv = Conv(in_channels, channels, 3, dtype=dtype, rngs=rngs)
        self.norm = nnx.GroupNorm(
            channels, num_groups=norm_groups, epsilon=1e-5, dtype=dtype, rngs=rngs
        )

    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B h w D"]:
        """Map (B, h, w, in) to (B, h, w, channels)."""
        return jax.nn.relu(self.norm(self.conv(x)))


class SemanticHead(nnx.Module):
    """Reads P2 to P5 and gives logits at stride 4.

    Args:
      in_channels: channels of the pyramid.
      num_classes: K, of pixels.
      channels: of every stage.
      norm_groups: groups of channels that are normalised together.
      label_scale: labels a pixel of the input each way that `predict` gives.
      loss_weight: what the cross entropy is multiplied by (lambda_s of the paper).
      dtype: what the activations are computed in; logits are float32.
      rngs: keys for the initial weights.

    Raises:
      ValueError: fewer than two classes, groups that do not divide the channels, or a
        setting out of range.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        channels: int = 128,
        norm_groups: int = 32,
        label_scale: int = 1,
        loss_weight: float = 1.0,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_ranges(
            "model.semantic_head",
            counts={
                "channels": channels,
                "norm_groups": norm_groups,
                "label_scale": label_scale,
            },
            positive={"loss_weight": loss_weight},
        )
        if num_classes < 2:
            raise ValueError(
                f"a semantic head with {num_classes} classes has nothing to tell apart:"
                " at least 2 are needed"
            )
        if channels % norm_groups:
            raise ValueError(
                f"model.semantic_head.channels is {channels}: it must be a multiple of"
                f" norm_groups, {norm_groups}"
            )

        def make_level(stride):
            widths = [in_channels] + [channels] * max(stride.bit_length() - 3, 1)
            return nnx.List(
                SemanticStage(
                    before, after, norm_groups=norm_groups, dtype=dtype, rngs=rngs
                )
                for before, after in zip(widths[:-1], widths[1:], strict=True)
            )

        self.levels = nnx.List([make_level(stride) for stride in STRIDES])
        self.logits = Conv(
            channels,
            num_classes,
            1,
            use_bias=True,
            kernel_init=nnx.initializers.normal(LOGITS_STD),
            dtype=dtype,
            out_dtype=jnp.float32,
            rngs=rngs,
        )
        self.num_classes = num_classes
        self.label_scale = label_scale
        self.loss_weight = loss_weight

    def __call__(self, features: Features) -> Float32[Array, "B h w K"]:
        """Return logits (B, ceil(H / 4), ceil(W / 4), K), float32.

        Raises:
          ValueError: the pyramid does not begin with P2 to P5.
        """
        if features.strides[: len(STRIDES)] != STRIDES:
            raise ValueError(
                f"a semantic head reads levels of strides {STRIDES}, and the pyramid"
                f" has {features.strides}"
            )
        maps = features.levels[: len(STRIDES)]
        total = 0
        for index, (x, stages) in enumerate(zip(maps, self.levels, strict=True)):
            # P2 has one stage and stays; Pn is doubled to the size of P(n - 1), and so
            # on down to P2.
            sizes = [x.shape[1:3], *(finer.shape[1:3] for finer in maps[:index])]
            for stage, size in zip(stages, reversed(sizes[bool(index) :]), strict=True):
                x = stage(x)
                x = double(x, size) if index else x
            total = total + x
        return self.logits(total)

    def loss(self, features: Features, batch: Batch) -> dict[str, Float32[Array, ""]]:
        """Return {"semantic": the weighted mean cross entropy of labelled pixels}.

        Logits are interpolated to the labels' size. The mean is over the labelled
        pixels of all images of `batch` together, 0 where there is none. As with the
        other heads, `batch` is what one replica takes in at once: the means of replicas
        and micro-batches are then averaged with equal weights, however many labelled
        pixels each has.

        Args:
          features: the pyramid.
          batch: with `semantic`, labels at a stride of 1, 2 or 4 pixels.

        Raises:
          ValueError: the batch has no labels, or at another stride.
        """
        labels = batch.semantic
        if labels is None:
            raise ValueError(
                "the batch has no label maps, which a semantic head learns from: set"
                " data.semantic to all or stuff"
            )
        height, width = batch.image.shape[1:3]
        for stride in (1, 2, STRIDE):
            if labels.shape[1:] == (height // stride, width // stride):
                break
        else:
            raise ValueError(
                f"labels of {labels.shape[1]}x{labels.shape[2]} for images of"
                f" {height}x{width} pixels: data.semantic_stride must be 1, 2 or 4,"
                " and divide the sides of the input"
            )
        counted = ((labels >= 0) & (labels < self.num_classes)).sum()
        total = pixel_cross_entropy(self(features), labels, STRIDE // stride)
        mean = total / jnp.maximum(counted, 1)
        return {"semantic": self.loss_weight * mean}

    def predict(self, features: Features, batch: Batch) -> Int[Array, "B H W"]:
        """Return the class of each part of a pixel, see `labels`."""
        return self.labels(self(features), batch.image.shape[1:3])

    def labels(
        self, logits: Float32[Array, "B h w K"], size: tuple[int, int]
    ) -> Int[Array, "B H W"]:
        """Return the best class of each pixel, of s x s parts with `label_scale` s.

        Published mIoU interpolates logits at the original image's pixels. Those lie
        between the input's, so that with s = 1 up to 0.75 points are lost, and with 3
        at most 0.1 (docs/evaluation.md).

        Args:
          logits: (B, ceil(H / 4), ceil(W / 4), K), interpolated bilinearly.
          size: (H, W) of the input.

        Returns:
          (B, s H, s W) int8, or int16 of more than 128 classes; in the padding it means
          nothing.
        """
        scale = self.label_scale
        height, width = size
        return pixel_classes(logits, (height * scale, width * scale), STRIDE * scale)
