"""RetinaNet's head: class scores and box corrections at every anchor, and their loss.

Lin et al. 2017 ("Focal Loss for Dense Object Detection"), section 4. The same two
towers run on every level of the pyramid.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from agvm_jax.structures import Batch

from ..layers import Conv
from ..ops.boxes import encode
from ..ops.losses import sigmoid_focal_loss, smooth_l1
from ..ops.matching import BACKGROUND, IGNORE, inside_crowd, match
from ..ops.repetition import repeat_labels

# Section 4.1: what an anchor's IoU must reach to be an object, or to be ignored.
FOREGROUND_IOU = 0.5
BACKGROUND_IOU = 0.4
# Section 5.1, table 1b.
FOCAL_ALPHA = 0.25
FOCAL_GAMMA = 2.0
# Section 4.1: every anchor starts as an object of each class with this probability;
# with 0.5 the background would drown the first steps.
PRIOR_PROBABILITY = 0.01


class RetinaHead(nnx.Module):
    """Two towers of 3x3 convolutions: one scores classes, one corrects anchors.

    Args:
      in_channels: channels of every level of the pyramid, and of the towers.
      num_classes: K, without a background class: each class is a binary decision.
      num_anchors: A, anchors at each place.
      head_convs: convolutions in each tower before the last one.
      dtype: what the activations are computed in.
      rngs: keys for the initial weights.

    Raises:
      ValueError: fewer than one class or anchor, or a negative number of convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        num_anchors: int,
        head_convs: int = 4,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        if num_classes < 1 or num_anchors < 1 or head_convs < 0:
            raise ValueError(
                f"a RetinaNet head with {num_classes} classes, {num_anchors} anchors a "
                f"place and head_convs={head_convs}: at least 1, 1 and 0 are needed"
            )

        def make_conv(out_channels, bias=0.0, out_dtype=None):
            return Conv(
                in_channels,
                out_channels,
                3,
                use_bias=True,
                kernel_init=nnx.initializers.normal(0.01),
                bias_init=nnx.initializers.constant(bias),
                dtype=dtype,
                out_dtype=out_dtype,
                rngs=rngs,
            )

        prior = -math.log((1.0 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)
        self.class_tower = nnx.List([make_conv(in_channels) for _ in range(head_convs)])
        self.class_logits = make_conv(num_anchors * num_classes, prior, jnp.float32)
        self.box_tower = nnx.List([make_conv(in_channels) for _ in range(head_convs)])
        self.box_deltas = make_conv(num_anchors * 4, out_dtype=jnp.float32)
        self.num_classes = num_classes
        self.num_anchors = num_anchors

    def __call__(
        self, features: Sequence[jax.Array]
    ) -> tuple[list[jax.Array], list[jax.Array]]:
        """Score and correct the anchors of every level.

        Args:
          features: one (B, H, W, C) array a level, finest first.

        Returns:
          logits, one (B, H * W * A, K) array a level, and deltas, one
          (B, H * W * A, 4) array a level, in the order of `ops.anchors`; both float32.
        """

        def run(tower, last, x, width):
            for conv in tower:
                x = jax.nn.relu(conv(x))
            return last(x).reshape(x.shape[0], -1, width)

        logits = [
            run(self.class_tower, self.class_logits, x, self.num_classes)
            for x in features
        ]
        deltas = [run(self.box_tower, self.box_deltas, x, 4) for x in features]
        return logits, deltas


def retina_targets(
    anchors: jax.Array,
    boxes: jax.Array,
    classes: jax.Array,
    valid: jax.Array,
    crowd: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Return what one image's anchors should say.

    Crowd regions are no targets, and an anchor that lies in one by more than half is
    not taught to be background.

    Args:
      anchors: (A, 4).
      boxes: (N, 4).
      classes: (N,) int32.
      valid: (N,) bool.
      crowd: (N,) bool.

    Returns:
      labels: (A,) int32, a class id, BACKGROUND or IGNORE.
      deltas: (A, 4) float32, zero where the label is no class.
    """
    matches = match(
        anchors,
        boxes,
        valid & ~crowd,
        foreground_iou=FOREGROUND_IOU,
        background_iou=BACKGROUND_IOU,
        low_quality=True,
    )
    unsure = inside_crowd(anchors, boxes, valid & crowd) & (matches == BACKGROUND)
    matches = jnp.where(unsure, IGNORE, matches)
    found = matches >= 0
    row = jnp.maximum(matches, 0)
    # An anchor without an object is its own target: padding rows have no logarithm.
    target = jnp.where(found[:, None], boxes[row].astype(jnp.float32), anchors)
    return jnp.where(found, classes[row], matches), encode(target, anchors)


def retina_loss(
    logits: Sequence[jax.Array],
    deltas: Sequence[jax.Array],
    anchors: Sequence[jax.Array],
    batch: Batch,
    *,
    num_anchors: int,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Return the focal loss of the classes plus the L1 loss of the boxes.

    Both are summed over an image's anchors and divided by its number of matched
    anchors (at least 1), then averaged over the images. Padding images, whose
    `image_id` is -1, count for nothing.

    Args:
      logits: one (B, A_l, K) array a level.
      deltas: one (B, A_l, 4) array a level.
      anchors: one (A_l, 4) array a level.
      batch: B images' annotations.
      num_anchors: A, anchors at each place.

    Returns:
      The loss, a float32 scalar, and its parts "classification" and "box".
    """
    labels, targets = jax.vmap(retina_targets, in_axes=(None, 0, 0, 0, 0))(
        jnp.concatenate(anchors), batch.boxes, batch.classes, batch.valid, batch.crowd
    )
    ends, total = [], 0
    for level in anchors[:-1]:
        total += level.shape[0]
        ends.append(total)

    class_loss = box_loss = jnp.zeros(labels.shape[:1], jnp.float32)
    # Level by level: joining the scores first would copy the largest array there is.
    for level_logits, level_deltas, level_labels, level_targets in zip(
        logits,
        deltas,
        jnp.split(labels, ends, axis=1),
        jnp.split(targets, ends, axis=1),
        strict=True,
    ):
        class_loss += _class_losses(level_logits, level_labels, num_anchors)
        distance = smooth_l1(level_deltas, level_targets)
        found = (level_labels >= 0)[..., None]
        box_loss += jnp.where(found, distance, 0.0).sum((1, 2))

    num_found = jnp.maximum((labels >= 0).sum(axis=1), 1)
    real = batch.image_id >= 0
    weight = real / (num_found * jnp.maximum(real.sum(), 1))  # (B,)
    parts = {
        "classification": (class_loss * weight).sum(),
        "box": (box_loss * weight).sum(),
    }
    return parts["classification"] + parts["box"], parts


def _class_losses(logits: jax.Array, labels: jax.Array, num_anchors: int) -> jax.Array:
    """Return the focal loss of one level, summed over each image's anchors: (B,).

    The scores of a place stay together as the convolution leaves them, A * K in a row.
    With a row for each anchor, K = 80 would be padded to the 128 of an accelerator's
    tiles; a TPU's compiler then counts a quarter more cycles and 2.6 times the memory
    (benchmarks/chip_parts.py).

    Args:
      logits: (B, A_l, K).
      labels: (B, A_l).
      num_anchors: A.
    """
    batch, _, num_classes = logits.shape
    logits = logits.reshape(batch, -1, num_anchors * num_classes)
    labels = labels.reshape(batch, -1, num_anchors)
    spread = repeat_labels(labels, num_classes)
    present = spread == jnp.tile(jnp.arange(num_classes), num_anchors)
    focal = sigmoid_focal_loss(logits, present, FOCAL_ALPHA, FOCAL_GAMMA)
    return jnp.where(spread != IGNORE, focal, 0.0).sum((1, 2))
