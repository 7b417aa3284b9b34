"""From the scores and boxes of proposals to the detections of an image.

Girshick 2015 ("Fast R-CNN"), section 4.1; in every detail that changes a number,
torchvision's, as long as Soft-NMS is not asked for.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Float32, Integer

from agvm_jax.structures import Predictions

from ..ops.arrays import Array
from ..ops.boxes import clip, decode
from ..ops.nms import nms
from ..ops.soft_nms import METHODS, soft_nms
from ..ops.topk import top_k_pairs
from .proposals import Proposals
from .ranges import check_ranges


class Candidates(NamedTuple):
    """Boxes that may be detections, N an image, before NMS.

    Attributes:
      boxes: (B, N, 4) float32, inside the image.
      scores: (B, N) float32 in [0, 1]; 0 in padding rows.
      classes: (B, N) int, 0..K-1.
    """

    boxes: Float32[Array, "*B N 4"]
    scores: Float32[Array, "*B N"]
    classes: Integer[Array, "*B N"]


@dataclasses.dataclass(frozen=True)
class ThinOut:
    """What is left of candidates: a threshold, NMS or Soft-NMS, a number at most.

    Attributes:
      section: of the config that the settings stand in, for errors.
      score_threshold: candidates that do not exceed it are dropped; with Soft-NMS those
        too whose score falls so far.
      nms_threshold: IoU above which the weaker of two of one class is dropped; linear
        Soft-NMS lowers its score.
      soft_nms: "", or the method of `ops.soft_nms`, "linear" or "gaussian".
      soft_nms_sigma: of the gaussian.
      max_detections: detections an image may have.
      min_side: pixels; candidates with a side below it are dropped.

    Raises:
      ValueError: a setting is out of range.
    """

    section: str
    score_threshold: float
    nms_threshold: float
    soft_nms: str
    soft_nms_sigma: float
    max_detections: int
    min_side: float = 0.0

    def __post_init__(self):
        check_ranges(
            self.section,
            shares={
                "score_threshold": self.score_threshold,
                "nms_threshold": self.nms_threshold,
            },
            counts={"max_detections": self.max_detections},
            positive={"soft_nms_sigma": self.soft_nms_sigma},
        )
        if self.soft_nms not in ("", *METHODS):
            raise ValueError(
                f"{self.section}.soft_nms is {self.soft_nms!r}: it must be one of "
                f'{", ".join(METHODS)}, or "" for plain NMS'
            )

    def __call__(self, found: Candidates) -> Predictions:
        """Return the detections among the candidates of a batch, best first."""
        return jax.vmap(self._of_image)(found)

    def _of_image(self, found: Candidates) -> Predictions:
        boxes, scores, classes = found
        sides = boxes[:, 2:] - boxes[:, :2]
        valid = (scores > self.score_threshold) & (sides >= self.min_side).all(axis=1)
        given = boxes, scores, classes, valid
        limits = {
            "iou_threshold": self.nms_threshold,
            "max_outputs": self.max_detections,
        }
        if self.soft_nms:
            rows, kept, best = soft_nms(
                *given,
                method=self.soft_nms,
                sigma=self.soft_nms_sigma,
                score_threshold=self.score_threshold,
                **limits,
            )
        else:
            rows, kept = nms(*given, **limits)
            best = jnp.where(kept, scores[rows], 0.0)
        return Predictions(
            boxes=jnp.where(kept[:, None], boxes[rows], 0.0),
            scores=best,
            classes=jnp.where(kept, classes[rows].astype(jnp.int32), -1),
            valid=kept,
        )


def join(parts: Sequence[Candidates]) -> Candidates:
    """Return the candidates of several looks at the same images, as one's."""
    if len(parts) == 1:
        return parts[0]
    return Candidates(
        *(jnp.concatenate(each, axis=1) for each in zip(*parts, strict=True))
    )


def best_pairs(
    logits: Float[Array, "P C"],
    deltas: Float[Array, "P C-1 4"],
    proposals: Proposals,
    image_size: Integer[Array, "2"],
    *,
    box_weights: tuple[float, float, float, float],
    pre_nms_top_k: int,
) -> Candidates:
    """Return the candidates of one image, best first; batches: `jax.vmap`.

    Every class of every proposal is a candidate of its own. torchvision sends all above
    the threshold to NMS; this is the same unless they are more than `pre_nms_top_k`.

    Args:
      logits: (P, K + 1).
      deltas: (P, K, 4).
      proposals: P of the one image.
      image_size: (2,).
      box_weights: those that the deltas were encoded with.
      pre_nms_top_k: as of `BoxHead`.
    """
    scores = jax.nn.softmax(logits.astype(jnp.float32))[:, :-1]  # (P, K)
    scores = jnp.where(proposals.valid[:, None], scores, 0.0)
    scores, rows, classes = top_k_pairs(scores, pre_nms_top_k)
    boxes = decode(deltas[rows, classes], proposals.boxes[rows], box_weights)
    return Candidates(clip(boxes, image_size), scores, classes)
