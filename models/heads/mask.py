"""The mask head: which pixels under a box belong to the object, and its loss.

He et al. 2017 ("Mask R-CNN"), section 3 and figure 4 (right); in every detail that
changes a number, torchvision's.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Bool, Float, Float32, Integer

from agvm_jax.structures import Batch, Predictions

from ..features import Features
from ..layers import Conv, kaiming_normal
from ..ops.arrays import Array
from ..ops.conv import conv2d
from ..ops.masks import mask_targets
from ..ops.object_chunks import sum_over_objects
from .ranges import check_ranges
from .roi_sample import RoiSample


class Upsample(nnx.Module):
    """A transposed convolution of 2x2 with stride 2: each cell becomes four.

    `kernel` is (2, 2, in, out): cell (2 i + a, 2 j + b) is cell (i, j) times
    ``kernel[a, b]``. Nothing overlaps, so it is a 1x1 convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, *, dtype, rngs: nnx.Rngs):
        shape = (2, 2, in_channels, out_channels)
        self.kernel = nnx.Param(kaiming_normal(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros((out_channels,), jnp.float32))
        self.dtype = dtype

    def __call__(self, x: Float[Array, "R H W C"]) -> Float[Array, "R H W 2 2 D"]:
        """Map (R, H, W, in) to (R, H, W, 2, 2, out); the four cells stay together."""
        kernel = jnp.einsum("abcd->cabd", self.kernel[...].astype(self.dtype))
        flat = kernel.reshape(1, 1, len(kernel), -1)
        y = conv2d(x.astype(self.dtype), flat).reshape(*x.shape[:3], *kernel.shape[1:])
        return y + self.bias[...].astype(self.dtype)


class MaskHead(nnx.Module):
    """A few 3x3 convolutions, twice the resolution, and one mask a class.

    Only the mask of the class that a box has is looked at, in training and after it, so
    only that one is computed: the last layer costs as much for eighty classes as for
    one. Its settings are the section `model.mask_head`.

    Args:
      in_channels: channels of the pyramid, and of every layer.
      num_classes: K.
      num_convs: 3x3 convolutions.
      roi_size: bins of a pooled box along each side; masks have twice as many.
      loss_weight: what its loss is multiplied by.
      dtype: what the activations are computed in.
      rngs: keys for the initial weights.

    Raises:
      ValueError: a setting is out of range.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        num_convs: int = 4,
        roi_size: int = 14,
        loss_weight: float = 1.0,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_ranges(
            "model.mask_head",
            counts={
                "num_classes": num_classes,
                "num_convs": num_convs,
                "roi_size": roi_size,
            },
            positive={"loss_weight": loss_weight},
        )

        def make_conv(out_channels, size):
            return Conv(
                in_channels, out_channels, size, use_bias=True, dtype=dtype, rngs=rngs
            )

        self.convs = nnx.List([make_conv(in_channels, 3) for _ in range(num_convs)])
        self.upsample = Upsample(in_channels, in_channels, dtype=dtype, rngs=rngs)
        self.logits = make_conv(num_classes, 1)
        self.num_classes = num_classes
        self.roi_size = roi_size
        self.loss_weight = loss_weight
        self.dtype = dtype

    def __call__(
        self, pooled: Float[Array, "B R P P C"], classes: Integer[Array, "B R"]
    ) -> Float32[Array, "B R 2*P 2*P"]:
        """Return the mask of each box, for the class that it is said to have.

        Args:
          pooled: (B, R, P, P, C).
          classes: (B, R) int; the mask of a row outside 0..K-1 is zero.

        Returns:
          (B, R, 2 P, 2 P) float32 logits.
        """
        batch, count, side, _, channels = pooled.shape
        x = pooled.reshape(batch * count, side, side, channels)
        for conv in self.convs:
            x = jax.nn.relu(conv(x))
        x = jax.nn.relu(self.upsample(x))  # (B R, P, P, 2, 2, C)
        # Each box's own column of the last kernel, by a product: an index would have a
        # scatter for its gradient.
        chosen = jax.nn.one_hot(classes.ravel(), self.num_classes, dtype=self.dtype)
        kernel = chosen @ self.logits.kernel[0, 0].astype(self.dtype).T  # (B R, C)
        bias = chosen.astype(jnp.float32) @ self.logits.bias[...]
        logits = jnp.einsum(
            "rhwabc,rc->rhawb", x, kernel, preferred_element_type=jnp.float32
        )
        logits = logits + bias[:, None, None, None, None]
        return logits.reshape(batch, count, 2 * side, 2 * side)

    def loss(
        self, features: Features, sample: RoiSample, batch: Batch
    ) -> dict[str, Float32[Array, ""]]:
        """Return the part "mask" of the loss: mean cross entropy of the objects' cells.

        Args:
          features: of the batch's images.
          sample: what a box head has learned from; its objects are learned from here.
          batch: annotations, with masks.

        Raises:
          ValueError: the batch has no masks.
        """
        objects = sample.objects()
        is_object = objects.is_object
        pooled = features.pool(objects.boxes, self.roi_size, is_object)
        targets = sampled_mask_targets(objects, batch, 2 * self.roi_size)

        def cross_entropy(pooled, labels, targets, is_object):
            logits = self(pooled[None], labels[None])
            return mask_cross_entropy(logits, targets[None], is_object[None])

        total = sum_over_objects(
            cross_entropy, pooled, objects.labels, targets, is_object
        )
        mean = total / jnp.maximum(is_object.sum(), 1)
        return {"mask": self.loss_weight * mean}

    def predict(
        self, features: Features, found: Predictions
    ) -> Float32[Array, "B D M M"]:
        """Return the masks of detections, (B, D, 2 P, 2 P) float32 probabilities."""
        pooled = features.pool(found.boxes, self.roi_size)
        return jax.nn.sigmoid(self(pooled, found.classes))


def sampled_mask_targets(
    sample: RoiSample, batch: Batch, size: int
) -> Float32[Array, "B S {size} {size}"]:
    """Return what the masks of sampled proposals should be, (B, S, M, M) float32.

    Args:
      sample: S proposals an image.
      batch: B images' annotations.
      size: M.

    Raises:
      ValueError: the batch has no masks.
    """
    if batch.masks is None:
        raise ValueError(
            "the batch has no masks, which a mask head learns from: set data.mask_size"
            " (56 is twice the head's 28)"
        )

    def of_image(masks, boxes, rois, rows):
        return mask_targets(masks[rows], boxes[rows], rois, size)

    return jax.vmap(of_image)(batch.masks, batch.boxes, sample.boxes, sample.rows)


def mask_cross_entropy(
    logits: Float[Array, "B S M M"],
    targets: Float[Array, "B S M M"],
    counted: Bool[Array, "B S"],
) -> Float32[Array, ""]:
    """Return the sum over objects of the mean cross entropy of their masks' cells.

    The loss is this over the number of objects.

    Args:
      logits: (B, S, M, M), each of its object's class.
      targets: (B, S, M, M) in [0, 1].
      counted: (B, S) bool, True for objects.

    Returns:
      A float32 scalar; 0 where there is no object.
    """
    logits = logits.astype(jnp.float32)
    cells = jax.nn.softplus(logits) - targets * logits
    return jnp.where(counted, cells.mean(axis=(2, 3)), 0.0).sum()
