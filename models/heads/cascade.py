"""The cascade of box heads: each learns from the boxes that the one before has made.

Cai and Vasconcelos 2018 ("Cascade R-CNN"), on a feature pyramid. What the paper leaves
open is as mmdetection has it (the weights of the stages' losses, deviations of the
deltas that shrink from stage to stage) or as detectron2 (no stage but the first
samples: the others take all boxes that they are handed).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Float32, Key

from agvm_jax.structures import Batch

from ..features import Features
from ..ops.arrays import Array
from ..ops.boxes import clip, decode
from ..ops.matching import IGNORE, match_objects
from ..ops.topk import top_k_pairs
from .box import BoxLayers, box_loss
from .detections import Candidates, ThinOut
from .proposals import Proposals
from .ranges import check_ranges
from .roi_sample import RoiSample, has_area, sample_of, sample_rois

Weights = tuple[float, float, float, float]


class CascadeHead(nnx.Module):
    """Stages of two fully connected layers, K + 1 scores and one box for all classes.

    Its settings are the section `model.cascade_head`.

    Args:
      in_channels: channels of the pyramid.
      num_classes: K; the background is class K.
      width: units of each of a stage's two layers.
      roi_size: bins of a pooled box along each side.
      samples: proposals an image that are learned from, by the mask head too.
      positive_fraction: the share of objects among them, at most.
      ious: a box that reaches its stage's is an object there.
      deviations: of x, y, width and height, what a stage's deltas are divided by.
      loss_weights: of each stage.
      box_beta: where the loss of the boxes turns from a square into a line.
      pre_nms_top_k, score_threshold, nms_threshold, soft_nms, soft_nms_sigma,
        max_detections, min_side: as of `BoxHead`.
      dtype: what the activations are computed in.
      rngs: keys for the initial weights.

    Raises:
      ValueError: a setting is out of range, or not one for each stage.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        width: int = 1024,
        roi_size: int = 7,
        samples: int = 512,
        positive_fraction: float = 0.25,
        ious: Sequence[float] = (0.5, 0.6, 0.7),
        deviations: Sequence[Weights] = (
            (0.1, 0.1, 0.2, 0.2),
            (0.05, 0.05, 0.1, 0.1),
            (0.033, 0.033, 0.067, 0.067),
        ),
        loss_weights: Sequence[float] = (1.0, 0.5, 0.25),
        box_beta: float = 1.0,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        soft_nms: str = "",
        soft_nms_sigma: float = 0.5,
        pre_nms_top_k: int = 1000,
        max_detections: int = 100,
        min_side: float = 1e-2,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_ranges(
            "model.cascade_head",
            shares={
                "positive_fraction": positive_fraction,
                **{f"ious[{index}]": iou for index, iou in enumerate(ious)},
            },
            counts={
                "num_classes": num_classes,
                "width": width,
                "roi_size": roi_size,
                "samples": samples,
                "pre_nms_top_k": pre_nms_top_k,
            },
        )
        if not len(ious) == len(loss_weights) == len(deviations) >= 1:
            raise ValueError(
                f"model.cascade_head has {len(ious)} ious, {len(loss_weights)} "
                f"loss_weights and {len(deviations)} deviations: each stage needs one "
                "of each"
            )
        self.stages = nnx.List(
            BoxLayers(
                in_channels,
                num_classes,
                boxes=1,
                width=width,
                roi_size=roi_size,
                dtype=dtype,
                rngs=rngs,
            )
            for _ in ious
        )
        self.num_classes = num_classes
        self.roi_size = roi_size
        self.samples = samples
        self.positive_fraction = positive_fraction
        self.ious = tuple(ious)
        self.box_weights = tuple(
            tuple(1.0 / each for each in stage) for stage in deviations
        )
        self.loss_weights = tuple(loss_weights)
        self.box_beta = box_beta
        self.pre_nms_top_k = pre_nms_top_k
        self.min_side = min_side
        self.thin_out = ThinOut(
            "model.cascade_head",
            score_threshold=score_threshold,
            nms_threshold=nms_threshold,
            soft_nms=soft_nms,
            soft_nms_sigma=soft_nms_sigma,
            max_detections=max_detections,
            min_side=min_side,
        )

    def loss(
        self,
        features: Features,
        proposals: Proposals,
        batch: Batch,
        key: Key[Array, ""],
    ) -> tuple[dict[str, Float32[Array, ""]], RoiSample]:
        """Return the parts of the loss and what the first stage has learned from.

        The parts are "classification_1", "box_1" and so on, see `box_loss`, times the
        weight of the stage.

        Args:
          features: of the batch's images.
          proposals: of the same.
          batch: their annotations.
          key: decides which proposals are learned from.
        """
        sample = first = sample_rois(
            proposals,
            batch,
            key,
            num_classes=self.num_classes,
            samples=self.samples,
            positive_fraction=self.positive_fraction,
            foreground_iou=self.ious[0],
            box_weights=self.box_weights[0],
        )
        parts = {}
        for index, stage in enumerate(self.stages):
            logits, deltas = stage(features.pool(sample.boxes, self.roi_size))
            losses = box_loss(logits, deltas, sample, box_beta=self.box_beta)
            for name, value in losses.items():
                parts[f"{name}_{index + 1}"] = self.loss_weights[index] * value
            if index + 1 < len(self.stages):
                sample = relabel(
                    sample,
                    self._refine(index, deltas, sample.boxes, features),
                    batch,
                    num_classes=self.num_classes,
                    foreground_iou=self.ious[index + 1],
                    box_weights=self.box_weights[index + 1],
                    min_side=self.min_side,
                )
        return parts, first

    def candidates(self, features: Features, proposals: Proposals) -> Candidates:
        """Return what may be detections; `thin_out` is next.

        Boxes are the last stage's, scores the mean of all stages'.
        """
        boxes, valid = proposals
        scores = 0.0
        for index, stage in enumerate(self.stages):
            logits, deltas = stage(features.pool(boxes, self.roi_size))
            scores += jax.nn.softmax(logits)[..., :-1] / len(self.stages)
            boxes = self._refine(index, deltas, boxes, features)

        def of_image(boxes, scores, valid):
            scores = jnp.where(valid[:, None], scores, 0.0)
            scores, rows, classes = top_k_pairs(scores, self.pre_nms_top_k)
            return Candidates(boxes[rows], scores, classes)

        return jax.vmap(of_image)(boxes, scores, valid)

    def _refine(
        self,
        index: int,
        deltas: Float32[Array, "B R 1 4"],
        boxes: Float32[Array, "B R 4"],
        features: Features,
    ) -> Float32[Array, "B R 4"]:
        """Return the boxes (B, R, 4) that a stage makes of others; no gradient passes.

        Args:
          index: of the stage.
          deltas: (B, R, 1, 4).
          boxes: (B, R, 4).
          features: for the sizes of the images.
        """
        refined = decode(deltas[:, :, 0], boxes, self.box_weights[index])
        return lax.stop_gradient(jax.vmap(clip)(refined, features.image_size))


def relabel(
    sample: RoiSample,
    boxes: Float32[Array, "B S 4"],
    batch: Batch,
    *,
    num_classes: int,
    foreground_iou: float,
    box_weights: Weights,
    min_side: float,
) -> RoiSample:
    """Return what a stage learns from: the boxes that the stage before has made.

    All of them, with no sampling; boxes that lost their area are left out, and so is
    background in a crowd region. The order stays, so objects do not stand in front.

    Args:
      sample: of the stage before.
      boxes: (B, S, 4), what it has made of the sample's.
      batch: B images' annotations.
      num_classes: K.
      foreground_iou: a box that reaches it is an object, all else background.
      box_weights: what deltas are multiplied by.
      min_side: pixels; boxes with a side below it are left out.
    """

    def of_image(refined, chosen, boxes, classes, valid, crowd):
        boxes = boxes.astype(jnp.float32)
        matches = match_objects(
            refined,
            boxes,
            valid & has_area(boxes),
            crowd,
            foreground_iou=foreground_iou,
            background_iou=foreground_iou,
            low_quality=False,
        )
        chosen &= (refined[:, 2:] - refined[:, :2] >= min_side).all(axis=1)
        chosen &= matches != IGNORE  # background in a crowd region
        return sample_of(
            refined,
            matches,
            chosen,
            chosen & (matches >= 0),
            boxes,
            classes,
            num_classes=num_classes,
            box_weights=box_weights,
            max_objects=refined.shape[0],
        )

    annotations = (batch.boxes, batch.classes, batch.valid, batch.crowd)
    return jax.vmap(of_image)(boxes, sample.chosen, *annotations)
