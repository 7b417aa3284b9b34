"""The region proposal network: where there may be an object, of whatever class.

Ren et al. 2015 ("Faster R-CNN"), section 3.1, on every level of a pyramid (Lin et al.
2017); in every detail that changes a number, torchvision's.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from agvm_jax.structures import Batch

from ..layers import Conv
from ..ops.boxes import clip, decode, encode
from ..ops.losses import smooth_l1
from ..ops.matching import BACKGROUND, inside_crowd, match
from ..ops.nms import nms
from ..ops.sampling import sample_balanced
from ..ops.topk import top_k

# Section 3.1.2: what an anchor's IoU must reach to be an object, or to be background.
FOREGROUND_IOU = 0.7
BACKGROUND_IOU = 0.3
# Section 3.1.3: the share of objects among the sampled anchors, at most.
POSITIVE_FRACTION = 0.5
# torchvision's and detectron2's: sigma = 3 of the first implementation.
BOX_BETA = 1.0 / 9.0
# Proposals with a side below this, in pixels, are dropped.
MIN_SIDE = 1e-3


class RPNHead(nnx.Module):
    """A 3x3 convolution, then one score and one correction for each anchor.

    Args:
      in_channels: channels of every level of the pyramid.
      num_anchors: A, anchors at each place.
      dtype: what the activations are computed in.
      rngs: keys for the initial weights.

    Raises:
      ValueError: fewer than one anchor a place.
    """

    def __init__(
        self, in_channels: int, *, num_anchors: int, dtype=jnp.float32, rngs: nnx.Rngs
    ):
        if num_anchors < 1:
            raise ValueError(
                f"an RPN with {num_anchors} anchors a place: at least 1 is needed"
            )

        def make_conv(out_channels, size, out_dtype=None):
            return Conv(
                in_channels,
                out_channels,
                size,
                use_bias=True,
                kernel_init=nnx.initializers.normal(0.01),
                dtype=dtype,
                out_dtype=out_dtype,
                rngs=rngs,
            )

        self.conv = make_conv(in_channels, 3)
        self.objectness = make_conv(num_anchors, 1, jnp.float32)
        self.box_deltas = make_conv(num_anchors * 4, 1, jnp.float32)
        self.num_anchors = num_anchors
        self.width = num_anchors * 4

    def __call__(
        self, features: Sequence[jax.Array]
    ) -> tuple[list[jax.Array], list[jax.Array]]:
        """Score and correct the anchors of every level.

        Args:
          features: one (B, H, W, C) array a level, finest first.

        Returns:
          logits, one (B, H * W * A) array a level in the order of `ops.anchors`, and
          deltas, one (B, H * W, 4 A) array a level, see `deltas_of`; both float32.
        """
        logits, deltas = [], []
        for feature in features:
            x = jax.nn.relu(self.conv(feature))
            logits.append(self.objectness(x).reshape(x.shape[0], -1))
            deltas.append(self.box_deltas(x).reshape(x.shape[0], -1, self.width))
        return logits, deltas


def deltas_of(deltas: jax.Array, rows: jax.Array) -> jax.Array:
    """Return the corrections of some anchors, and pick them by place first.

    The corrections of a place stay together, because accelerators keep arrays in tiles
    of 128 numbers: with a row of 4 for each anchor the largest level alone would take
    0.2 GB in place of 20 MB (4 images of 832 x 1344 px).

    Args:
      deltas: (H * W, 4 A).
      rows: (R,) int, anchors in the order of `ops.anchors`: place by place.

    Returns:
      (R, 4).
    """
    count = deltas.shape[1] // 4
    places = deltas[rows // count].reshape(-1, count, 4)
    wanted = jnp.arange(count) == (rows % count)[:, None]
    return jnp.where(wanted[..., None], places, 0).sum(axis=1)


def propose(
    logits: Sequence[jax.Array],
    deltas: Sequence[jax.Array],
    anchors: Sequence[jax.Array],
    image_size: jax.Array,
    *,
    pre_nms_top_k: int,
    max_proposals: int,
    nms_threshold: float,
) -> tuple[jax.Array, jax.Array]:
    """Return the boxes most likely to hold an object.

    The best of each level are corrected, clipped to the picture and thinned by NMS,
    level by level; then the best of all levels are taken. No gradient passes (Faster
    R-CNN, section 3.2: "approximate joint training").

    Args:
      logits: one (B, A_l) array a level.
      deltas: one (B, H * W, 4 A) array a level, see `deltas_of`.
      anchors: one (A_l, 4) array a level.
      image_size: (B, 2).
      pre_nms_top_k: anchors of each level that go to NMS.
      max_proposals: P, boxes an image may have.
      nms_threshold: IoU above which the weaker of two of one level is dropped.

    Returns:
      boxes: (B, P, 4) float32, best first; zeros in padding rows.
      valid: (B, P) bool.
    """
    logits, deltas = lax.stop_gradient((logits, deltas))

    def propose_one(logits, deltas, image_size):
        boxes, scores, levels = [], [], []
        for level, (level_logits, level_deltas, level_anchors) in enumerate(
            zip(logits, deltas, anchors, strict=True)
        ):
            count = min(pre_nms_top_k, level_logits.shape[0])
            best, rows = top_k(level_logits, count)
            boxes.append(decode(deltas_of(level_deltas, rows), level_anchors[rows]))
            scores.append(best)
            levels.append(jnp.full((count,), level, jnp.int32))
        boxes = clip(jnp.concatenate(boxes), image_size)
        sides = boxes[:, 2:] - boxes[:, :2]
        rows, valid = nms(
            boxes,
            jnp.concatenate(scores),
            jnp.concatenate(levels),
            (sides >= MIN_SIDE).all(axis=1),
            iou_threshold=nms_threshold,
            max_outputs=max_proposals,
            runs=[len(level) for level in scores],
        )
        return jnp.where(valid[:, None], boxes[rows], 0.0), valid

    return jax.vmap(propose_one)(logits, deltas, image_size)


def rpn_loss(
    logits: Sequence[jax.Array],
    deltas: Sequence[jax.Array],
    anchors: Sequence[jax.Array],
    batch: Batch,
    key: jax.Array,
    *,
    num_samples: int,
) -> dict[str, jax.Array]:
    """Return the losses of a random sample of each image's anchors.

    Both are divided by the number of sampled anchors of the batch (Faster R-CNN,
    equation 1, as torchvision balances it). Crowd regions are no targets, and an anchor
    that lies in one by more than half is not taught to be background. Padding images
    count for nothing.

    Args:
      logits: one (B, A_l) array a level.
      deltas: one (B, H * W, 4 A) array a level, see `deltas_of`.
      anchors: one (A_l, 4) array a level.
      batch: B images' annotations.
      key: decides which anchors are looked at.
      num_samples: anchors an image, at most half of them objects.

    Returns:
      "objectness" (binary cross entropy) and "rpn_box" (smooth L1), float32 scalars.
    """
    anchors = jnp.concatenate(anchors)

    def choose(key, boxes, valid, crowd):
        matches = match(
            anchors,
            boxes,
            valid & ~crowd,
            foreground_iou=FOREGROUND_IOU,
            background_iou=BACKGROUND_IOU,
            low_quality=True,
        )
        negative = matches == BACKGROUND
        negative &= ~inside_crowd(anchors, boxes, valid & crowd)
        rows, chosen, is_object = sample_balanced(
            key,
            matches >= 0,
            negative,
            size=num_samples,
            positive_fraction=POSITIVE_FRACTION,
        )
        own = anchors[rows]
        # An anchor without an object is its own target: padding has no logarithm.
        target = boxes[jnp.maximum(matches[rows], 0)].astype(jnp.float32)
        target = jnp.where(is_object[:, None], target, own)
        return rows, chosen, is_object, encode(target, own)

    keys = jax.random.split(key, batch.boxes.shape[0])
    rows, chosen, is_object, targets = jax.vmap(choose)(
        keys, batch.boxes, batch.valid, batch.crowd
    )
    chosen &= (batch.image_id >= 0)[:, None]  # (B, S)

    # (B, S)
    scores = jnp.take_along_axis(jnp.concatenate(logits, axis=1), rows, axis=1)
    surprise = jax.nn.softplus(jnp.where(is_object, -scores, scores))
    corrections = jax.vmap(deltas_of)(jnp.concatenate(deltas, axis=1), rows)
    distance = smooth_l1(corrections, targets, BOX_BETA).sum(-1)  # (B, S)
    count = jnp.maximum(chosen.sum(), 1)
    return {
        "objectness": jnp.where(chosen, surprise, 0.0).sum() / count,
        "rpn_box": jnp.where(chosen & is_object, distance, 0.0).sum() / count,
    }
