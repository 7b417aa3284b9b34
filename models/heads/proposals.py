"""Proposals: the boxes that a region proposal network hands on."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Float32, Integer

from ..ops.arrays import Array
from ..ops.boxes import clip, decode
from ..ops.nms import nms
from ..ops.topk import top_k
from .anchor_outputs import AnchorOutputs, by_place, deltas_of


class Proposals(NamedTuple):
    """Boxes that may hold an object, P an image.

    Attributes:
      boxes: (B, P, 4) float32, pixels, best first; zeros in padding rows.
      valid: (B, P) bool, False in padding rows.
    """

    boxes: Float32[Array, "B P 4"]
    valid: Bool[Array, "B P"]


def propose(
    outputs: AnchorOutputs,
    image_size: Integer[Array, "B 2"],
    *,
    pre_nms_top_k: int,
    max_proposals: int,
    nms_threshold: float,
    min_side: float,
) -> Proposals:
    """Return the boxes most likely to hold an object.

    The best of each level are decoded, clipped to the image and thinned by NMS, level
    by level; then the best of all levels are taken. No gradient passes (Faster R-CNN,
    section 3.2: "approximate joint training").

    Args:
      outputs: of an RPN, with one logit an anchor.
      image_size: (B, 2).
      pre_nms_top_k: anchors of each level that go to NMS.
      max_proposals: P, boxes an image may have.
      nms_threshold: IoU above which the weaker of two of one level is dropped.
      min_side: pixels; boxes with a side below it are dropped.
    """
    logits, deltas = lax.stop_gradient((outputs.logits, outputs.deltas))

    def propose_one(logits, deltas, image_size):
        boxes, scores, levels = [], [], []
        for level, (level_logits, level_deltas, level_anchors) in enumerate(
            zip(logits, deltas, outputs.anchors, strict=True)
        ):
            count = min(pre_nms_top_k, level_logits.size)
            best, rows = top_k(level_logits.reshape(-1), count)
            found = deltas_of(by_place(level_deltas), rows)
            boxes.append(decode(found, level_anchors[rows]))
            scores.append(best)
            levels.append(jnp.full((count,), level, jnp.int32))
        boxes = clip(jnp.concatenate(boxes), image_size)
        sides = boxes[:, 2:] - boxes[:, :2]
        rows, valid = nms(
            boxes,
            jnp.concatenate(scores),
            jnp.concatenate(levels),
            (sides >= min_side).all(axis=1),
            iou_threshold=nms_threshold,
            max_outputs=max_proposals,
            runs=[len(level) for level in scores],
        )
        return Proposals(jnp.where(valid[:, None], boxes[rows], 0.0), valid)

    return jax.vmap(propose_one)(logits, deltas, image_size)
