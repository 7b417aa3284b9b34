"""The proposals that a head learns from, and what each of them should become."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32, Int32, Key

from agvm_jax.structures import Batch

from ..ops.arrays import Array
from ..ops.boxes import encode
from ..ops.matching import BACKGROUND, match_objects
from ..ops.sampling import sample_balanced
from .proposals import Proposals


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RoiSample:
    """Proposals to learn from, S an image, objects first.

    Attributes:
      boxes: (B, S, 4) float32; a box of one pixel in padding rows.
      labels: (B, S) int32, 0..K-1, or K for the background.
      targets: (B, S, 4) float32 deltas; zero where the label is background.
      rows: (B, S) int32, the annotation that each object belongs to; 0 elsewhere.
      chosen: (B, S) bool, False for padding rows.
      is_object: (B, S) bool.
      max_objects: how many of the rows in front may be objects.
    """

    # Any: as a tree it holds slopes and axes too.
    boxes: Any
    labels: Any
    targets: Any
    rows: Any
    chosen: Any
    is_object: Any
    max_objects: int = dataclasses.field(metadata={"static": True})

    def objects(self) -> "RoiSample":
        """Return the rows that may be objects, which all stand in front."""
        return jax.tree.map(lambda field: field[:, : self.max_objects], self)


def sample_rois(
    proposals: Proposals,
    batch: Batch,
    key: Key[Array, ""],
    *,
    num_classes: int,
    samples: int,
    positive_fraction: float,
    foreground_iou: float,
    box_weights: tuple[float, float, float, float],
) -> RoiSample:
    """Choose proposals to learn from, and say what each should become.

    The annotated boxes are proposals too; so there are objects from the first step on.
    Crowd regions are no targets, and what lies in one by more than half is not taught
    to be background. Padding images give no sample.

    Args:
      proposals: of the batch's images.
      batch: B images' annotations.
      key: decides which proposals are learned from.
      num_classes: K.
      samples: S.
      positive_fraction: the share of objects among them, at most.
      foreground_iou: a proposal that reaches it is an object, all else background.
      box_weights: what deltas are multiplied by, see `ops.boxes.encode`.
    """

    def choose(key, proposals, boxes, classes, valid, crowd):
        boxes = boxes.astype(jnp.float32)
        valid = valid & has_area(boxes)
        candidates = jnp.concatenate([proposals.boxes, boxes])  # (P + N, 4)
        eligible = jnp.concatenate([proposals.valid, valid & ~crowd])
        matches = match_objects(
            candidates,
            boxes,
            valid,
            crowd,
            foreground_iou=foreground_iou,
            background_iou=foreground_iou,
            low_quality=False,
        )
        picked, chosen, is_object = sample_balanced(
            key,
            (matches >= 0) & eligible,
            (matches == BACKGROUND) & eligible,
            size=samples,
            positive_fraction=positive_fraction,
        )
        return sample_of(
            candidates[picked],
            matches[picked],
            chosen,
            is_object,
            boxes,
            classes,
            num_classes=num_classes,
            box_weights=box_weights,
            max_objects=max(int(samples * positive_fraction), 1),
        )

    boxes, valid = proposals
    keys = jax.random.split(key, boxes.shape[0])
    real = (batch.image_id >= 0)[:, None]
    return jax.vmap(choose)(
        keys,
        Proposals(boxes, valid & real),
        batch.boxes,
        batch.classes,
        batch.valid & real,
        batch.crowd,
    )


def has_area(boxes: Float[Array, "N 4"]) -> Bool[Array, " N"]:
    """Return which boxes (N, 4) have one.

    One without has no code, and nothing but itself to be found by.
    """
    return (boxes[:, 2:] > boxes[:, :2]).all(axis=1)


def sample_of(
    rois: Float32[Array, "S 4"],
    matches: Int32[Array, " S"],
    chosen: Bool[Array, " S"],
    is_object: Bool[Array, " S"],
    boxes: Float32[Array, "N 4"],
    classes: Int32[Array, " N"],
    *,
    num_classes: int,
    box_weights: tuple[float, float, float, float],
    max_objects: int,
) -> RoiSample:
    """Return what is to be learned from boxes of one image whose objects are known.

    Args:
      rois: (S, 4).
      matches: (S,) the row of each one's object, see `ops.matching`.
      chosen: (S,) whether it counts.
      is_object: (S,) whether it counts as its object, and not as background.
      boxes, classes: (N, 4), (N,) of the objects.
      num_classes, box_weights: as of `sample_rois`.
      max_objects: of `RoiSample`.
    """
    pixel = jnp.array([0.0, 0.0, 1.0, 1.0])
    rois = jnp.where(chosen[:, None], rois, pixel)
    rows = jnp.where(is_object, matches, 0)
    target = jnp.where(is_object[:, None], boxes[rows], rois)
    return RoiSample(
        boxes=rois,
        labels=jnp.where(is_object, classes[rows], num_classes),
        targets=encode(target, rois, box_weights),
        rows=rows,
        chosen=chosen,
        is_object=is_object,
        max_objects=max_objects,
    )
