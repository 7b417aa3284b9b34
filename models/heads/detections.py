"""From the scores and boxes of proposals to the detections of an image.

Girshick 2015 ("Fast R-CNN"), section 4.1; in every detail that changes a number,
torchvision's.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Float32, Integer

from agvm_jax.structures import Predictions

from ..ops.arrays import Array
from ..ops.boxes import clip, decode
from ..ops.nms import nms
from ..ops.topk import top_k_pairs
from .proposals import Proposals


def detect(
    logits: Float[Array, "P C"],
    deltas: Float[Array, "P C-1 4"],
    proposals: Proposals,
    image_size: Integer[Array, "2"],
    *,
    box_weights: tuple[float, float, float, float],
    score_threshold: float,
    nms_threshold: float,
    pre_nms_top_k: int,
    max_detections: int,
    min_side: float,
) -> Predictions:
    """Return the detections of one image, best first; batches: `jax.vmap`.

    Every class of every proposal is a candidate of its own. torchvision sends all above
    the threshold to NMS; this is the same unless they are more than `pre_nms_top_k`.

    Args:
      logits: (P, K + 1).
      deltas: (P, K, 4).
      proposals: P of the one image.
      image_size: (2,).
      box_weights: those that the deltas were encoded with.
      score_threshold, nms_threshold, pre_nms_top_k, max_detections, min_side: as of
        `BoxHead`.
    """
    scores = jax.nn.softmax(logits.astype(jnp.float32))[:, :-1]  # (P, K)
    scores = jnp.where(proposals.valid[:, None], scores, 0.0)
    scores, rows, classes = top_k_pairs(scores, pre_nms_top_k)
    boxes = decode(deltas[rows, classes], proposals.boxes[rows], box_weights)
    return thin_out(
        clip(boxes, image_size),
        scores,
        classes,
        score_threshold=score_threshold,
        nms_threshold=nms_threshold,
        max_detections=max_detections,
        min_side=min_side,
    )


def thin_out(
    boxes: Float32[Array, "N 4"],
    scores: Float32[Array, " N"],
    classes: Integer[Array, " N"],
    *,
    score_threshold: float,
    nms_threshold: float,
    max_detections: int,
    min_side: float,
) -> Predictions:
    """Return what is left of one image's candidates after NMS, best first.

    Args:
      boxes: (N, 4), inside the image.
      scores: (N,).
      classes: (N,).
      score_threshold, nms_threshold, max_detections, min_side: as of `BoxHead`.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    rows, kept = nms(
        boxes,
        scores,
        classes,
        (scores > score_threshold) & (sides >= min_side).all(axis=1),
        iou_threshold=nms_threshold,
        max_outputs=max_detections,
    )
    return Predictions(
        boxes=jnp.where(kept[:, None], boxes[rows], 0.0),
        scores=jnp.where(kept, scores[rows], 0.0),
        classes=jnp.where(kept, classes[rows].astype(jnp.int32), -1),
        valid=kept,
    )
