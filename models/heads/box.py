"""The box head: the class and the exact box of each proposal, and their loss.

Girshick 2015 ("Fast R-CNN"), with the two fully connected layers that Lin et al. 2017
("Feature Pyramid Networks", section 4.2) put in place of conv5; in every detail that
changes a number, torchvision's.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from agvm_jax.structures import Batch

from ..ops.boxes import clip, decode, encode
from ..ops.conv import conv2d
from ..ops.losses import smooth_l1
from ..ops.matching import BACKGROUND, inside_crowd, match
from ..ops.nms import nms
from ..ops.sampling import sample_balanced
from ..ops.topk import top_k_pairs

# Fast R-CNN, section 2.3, with background from 0 up, as everybody has it since.
OBJECT_IOU = 0.5
POSITIVE_FRACTION = 0.25
# Deltas are multiplied by these, so that their spread is near 1 (the first
# implementation divided by standard deviations of 0.1 and 0.2).
BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
BOX_BETA = 1.0 / 9.0
# Detections with a side below this, in pixels, are dropped.
MIN_SIDE = 1e-2


class BoxHead(nnx.Module):
    """Two fully connected layers, then K + 1 scores and a box for each class.

    Args:
      in_channels: channels of the pooled features.
      num_classes: K; the background is class K.
      roi_size: bins of the pooled features along each side.
      width: of the two layers.
      dtype: what the activations are computed in.
      rngs: keys for the initial weights.

    Raises:
      ValueError: fewer than one class or unit.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        roi_size: int,
        width: int = 1024,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        if num_classes < 1 or width < 1:
            raise ValueError(
                f"a box head with {num_classes} classes and {width} units: at least 1 "
                "of each is needed"
            )

        def make_layer(inputs, outputs, kernel_init):
            return nnx.Linear(
                inputs, outputs, kernel_init=kernel_init, dtype=dtype, rngs=rngs
            )

        xavier = nnx.initializers.xavier_uniform()
        self.fc6 = make_layer(in_channels * roi_size**2, width, xavier)
        self.fc7 = make_layer(width, width, xavier)
        # Fast R-CNN, section 2.3: Gaussians of 0.01 and 0.001.
        self.class_logits = make_layer(
            width, num_classes + 1, nnx.initializers.normal(0.01)
        )
        self.box_deltas = make_layer(
            width, num_classes * 4, nnx.initializers.normal(0.001)
        )
        self.num_classes = num_classes
        self.roi_size = roi_size

    def __call__(self, pooled: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Map (B, R, P, P, C) to logits (B, R, K + 1) and deltas (B, R, K, 4).

        Both are float32.
        """
        x = pooled.reshape(*pooled.shape[:2], -1)
        x = jax.nn.relu(self.fc6(x))
        x = jax.nn.relu(self.fc7(x))
        deltas = self._last(self.box_deltas, x)
        deltas = deltas.reshape(*x.shape[:2], self.num_classes, 4)
        return self._last(self.class_logits, x), deltas

    def _last(self, layer: nnx.Linear, x: jax.Array) -> jax.Array:
        """Apply a layer to (B, R, width) and do not round what it gives.

        A fully connected layer is a convolution of 1x1.
        """
        kernel = layer.kernel[...].astype(x.dtype)[None, None]
        y = conv2d(x[:, :, None], kernel, out_dtype=jnp.float32)[:, :, 0]
        return y + layer.bias[...]


class RoiSample(NamedTuple):
    """Proposals to learn from, S an image, objects first.

    Attributes:
      boxes: (B, S, 4) float32; a box of one pixel in padding rows.
      labels: (B, S) int32, 0..K-1, or K for the background.
      targets: (B, S, 4) float32 deltas; zero where the label is background.
      rows: (B, S) int32, the annotation that each object belongs to; 0 elsewhere.
      chosen: (B, S) bool, False for padding rows.
      is_object: (B, S) bool.
    """

    boxes: jax.Array
    labels: jax.Array
    targets: jax.Array
    rows: jax.Array
    chosen: jax.Array
    is_object: jax.Array


def sample_rois(
    proposals: jax.Array,
    valid: jax.Array,
    batch: Batch,
    key: jax.Array,
    *,
    num_classes: int,
    num_samples: int,
) -> RoiSample:
    """Choose proposals to learn from, and say what each should become.

    The annotated boxes are proposals too; so there are objects from the first step on.
    Crowd regions are no targets, and what lies in one by more than half is not taught
    to be background. Padding images give no sample.

    Args:
      proposals: (B, P, 4).
      valid: (B, P) bool.
      batch: B images' annotations.
      key: decides which proposals are looked at.
      num_classes: K.
      num_samples: S, at most a quarter of them objects.
    """

    def choose(key, proposals, proposals_valid, boxes, classes, valid, crowd):
        boxes = boxes.astype(jnp.float32)
        # A box without area has no code, and nothing but itself to be found by.
        usable = valid & ~crowd & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        candidates = jnp.concatenate([proposals, boxes])  # (P + N, 4)
        eligible = jnp.concatenate([proposals_valid, usable])
        matches = match(
            candidates,
            boxes,
            usable,
            foreground_iou=OBJECT_IOU,
            background_iou=OBJECT_IOU,
            low_quality=False,
        )
        negative = matches == BACKGROUND
        negative &= ~inside_crowd(candidates, boxes, valid & crowd)
        picked, chosen, is_object = sample_balanced(
            key,
            (matches >= 0) & eligible,
            negative & eligible,
            size=num_samples,
            positive_fraction=POSITIVE_FRACTION,
        )
        pixel = jnp.array([0.0, 0.0, 1.0, 1.0])
        rois = jnp.where(chosen[:, None], candidates[picked], pixel)
        rows = jnp.where(is_object, matches[picked], 0)
        target = jnp.where(is_object[:, None], boxes[rows], rois)
        return RoiSample(
            boxes=rois,
            labels=jnp.where(is_object, classes[rows], num_classes),
            targets=encode(target, rois, BOX_WEIGHTS),
            rows=rows,
            chosen=chosen,
            is_object=is_object,
        )

    keys = jax.random.split(key, proposals.shape[0])
    real = (batch.image_id >= 0)[:, None]
    return jax.vmap(choose)(
        keys,
        proposals,
        valid & real,
        batch.boxes,
        batch.classes,
        batch.valid & real,
        batch.crowd,
    )


def box_loss(
    logits: jax.Array, deltas: jax.Array, sample: RoiSample
) -> dict[str, jax.Array]:
    """Return the losses of sampled proposals, over the number of them in the batch.

    Args:
      logits: (B, S, K + 1).
      deltas: (B, S, K, 4); only those of the right class are looked at.
      sample: what they should be.

    Returns:
      "classification" (cross entropy) and "box" (smooth L1), float32 scalars.
    """
    log_probability = jax.nn.log_softmax(logits.astype(jnp.float32))
    classes = jnp.arange(logits.shape[-1])
    is_label = sample.labels[..., None] == classes  # (B, S, K + 1)
    surprise = -jnp.where(is_label, log_probability, 0.0).sum(axis=-1)
    # By a mask and not an index, whose gradient would be a scatter.
    distance = smooth_l1(deltas, sample.targets[..., None, :], BOX_BETA).sum(axis=-1)
    counted = is_label[..., :-1] & (sample.chosen & sample.is_object)[..., None]
    count = jnp.maximum(sample.chosen.sum(), 1)
    return {
        "classification": jnp.where(sample.chosen, surprise, 0.0).sum() / count,
        "box": jnp.where(counted, distance, 0.0).sum() / count,
    }


def detect(
    logits: jax.Array,
    deltas: jax.Array,
    proposals: jax.Array,
    valid: jax.Array,
    image_size: jax.Array,
    *,
    score_threshold: float,
    nms_threshold: float,
    pre_nms_top_k: int,
    max_detections: int,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Return the detections of one image, best first; batches: `jax.vmap`.

    Every class of every proposal is a candidate of its own. torchvision sends all above
    the threshold to NMS; this is the same unless they are more than `pre_nms_top_k`.

    Args:
      logits: (P, K + 1).
      deltas: (P, K, 4).
      proposals: (P, 4).
      valid: (P,) bool.
      image_size: (2,).
      score_threshold: candidates below it are dropped before NMS.
      nms_threshold: IoU above which the weaker of two of one class is dropped.
      pre_nms_top_k: candidates that go to NMS.
      max_detections: D.

    Returns:
      boxes (D, 4), scores (D,), classes (D,) and valid (D,), see `Predictions`.
    """
    scores = jax.nn.softmax(logits.astype(jnp.float32))[:, :-1]  # (P, K)
    scores = jnp.where(valid[:, None], scores, 0.0)
    scores, rows, classes = top_k_pairs(scores, pre_nms_top_k)
    boxes = decode(deltas[rows, classes], proposals[rows], BOX_WEIGHTS)
    boxes = clip(boxes, image_size)
    sides = boxes[:, 2:] - boxes[:, :2]
    rows, kept = nms(
        boxes,
        scores,
        classes,
        (scores > score_threshold) & (sides >= MIN_SIDE).all(axis=1),
        iou_threshold=nms_threshold,
        max_outputs=max_detections,
    )
    return (
        jnp.where(kept[:, None], boxes[rows], 0.0),
        jnp.where(kept, scores[rows], 0.0),
        jnp.where(kept, classes[rows].astype(jnp.int32), -1),
        kept,
    )
