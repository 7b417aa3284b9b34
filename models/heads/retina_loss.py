"""What RetinaNet's anchors should say, and how far they are from it.

Lin et al. 2017 ("Focal Loss for Dense Object Detection"), sections 3 and 4.1.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32, Int32

from agvm_jax.structures import Batch

from ..ops.arrays import Array
from ..ops.boxes import encode
from ..ops.losses import sigmoid_focal_loss, smooth_l1
from ..ops.matching import IGNORE, match_objects
from ..ops.repetition import repeat_labels
from .anchor_outputs import AnchorOutputs, by_place


def retina_targets(
    anchors: Float32[Array, "A 4"],
    boxes: Float[Array, "N 4"],
    classes: Int32[Array, " N"],
    valid: Bool[Array, " N"],
    crowd: Bool[Array, " N"],
    *,
    foreground_iou: float,
    background_iou: float,
) -> tuple[Int32[Array, " A"], Float32[Array, "A 4"]]:
    """Return what one image's anchors should say.

    Crowd regions are no targets, and an anchor that lies in one by more than half is
    not taught to be background.

    Args:
      anchors: (A, 4).
      boxes: (N, 4).
      classes: (N,) int32.
      valid: (N,) bool.
      crowd: (N,) bool.
      foreground_iou, background_iou: as of `RetinaHead`.

    Returns:
      labels: (A,) int32, a class id, BACKGROUND or IGNORE.
      deltas: (A, 4) float32, zero where the label is no class.
    """
    matches = match_objects(
        anchors,
        boxes,
        valid,
        crowd,
        foreground_iou=foreground_iou,
        background_iou=background_iou,
        low_quality=True,
    )
    found = matches >= 0
    row = jnp.maximum(matches, 0)
    # An anchor without an object is its own target: padding rows have no logarithm.
    target = jnp.where(found[:, None], boxes[row].astype(jnp.float32), anchors)
    return jnp.where(found, classes[row], matches), encode(target, anchors)


def retina_loss(
    outputs: AnchorOutputs,
    batch: Batch,
    *,
    foreground_iou: float,
    background_iou: float,
    focal_alpha: float,
    focal_gamma: float,
) -> dict[str, Float32[Array, ""]]:
    """Return the focal loss of the classes and the L1 loss of the boxes.

    Both are summed over an image's anchors and divided by its number of matched
    anchors (at least 1), then averaged over the images. Padding images, whose
    `image_id` is -1, count for nothing.

    Args:
      outputs: with K logits an anchor.
      batch: B images' annotations.
      foreground_iou, background_iou, focal_alpha, focal_gamma: as of `RetinaHead`.

    Returns:
      "classification" and "box", float32 scalars.
    """
    find = functools.partial(
        retina_targets, foreground_iou=foreground_iou, background_iou=background_iou
    )
    labels, targets = jax.vmap(find, in_axes=(None, 0, 0, 0, 0))(
        jnp.concatenate(outputs.anchors),
        batch.boxes,
        batch.classes,
        batch.valid,
        batch.crowd,
    )
    ends, total = [], 0
    for level in outputs.anchors[:-1]:
        total += level.shape[0]
        ends.append(total)

    class_loss = box_loss = jnp.zeros(labels.shape[:1], jnp.float32)
    # Level by level: joining the scores first would copy the largest array there is.
    for level_logits, level_deltas, level_labels, level_targets in zip(
        outputs.logits,
        outputs.deltas,
        jnp.split(labels, ends, axis=1),
        jnp.split(targets, ends, axis=1),
        strict=True,
    ):
        deltas = by_place(level_deltas)  # (B, P, 4 A)
        level_labels = level_labels.reshape(*deltas.shape[:2], -1)  # (B, P, A)
        class_loss += class_losses(
            by_place(level_logits), level_labels, focal_alpha, focal_gamma
        )
        distance = smooth_l1(deltas, level_targets.reshape(deltas.shape))
        found = repeat_labels(level_labels, 4) >= 0
        box_loss += jnp.where(found, distance, 0.0).sum((1, 2))

    num_found = jnp.maximum((labels >= 0).sum(axis=1), 1)
    real = batch.image_id >= 0
    weight = real / (num_found * jnp.maximum(real.sum(), 1))  # (B,)
    return {
        "classification": (class_loss * weight).sum(),
        "box": (box_loss * weight).sum(),
    }


def class_losses(
    logits: Float[Array, "B P A_K"],
    labels: Int32[Array, "B P A"],
    alpha: float,
    gamma: float,
) -> Float32[Array, " B"]:
    """Return the focal loss of one level, summed over each image's anchors: (B,).

    Args:
      logits: (B, P, A x K).
      labels: (B, P, A), classes, BACKGROUND or IGNORE.
      alpha, gamma: of the focal loss.
    """
    num_anchors = labels.shape[-1]
    num_classes = logits.shape[-1] // num_anchors
    spread = repeat_labels(labels, num_classes)
    present = spread == jnp.tile(jnp.arange(num_classes), num_anchors)
    focal = sigmoid_focal_loss(logits, present, alpha, gamma)
    return jnp.where(spread != IGNORE, focal, 0.0).sum((1, 2))
