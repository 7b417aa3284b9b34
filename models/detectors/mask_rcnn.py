"""Mask R-CNN: Faster R-CNN and, for each box, which of its pixels are the object.

He et al. 2017; in every detail that changes a number, torchvision's
`maskrcnn_resnet50_fpn`, but for the targets of the masks, see `ops.masks`.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from agvm_jax.structures import Batch, Predictions

from ..heads.mask import (
    MaskHead,
    mask_sample,
    mask_surprise,
    sampled_mask_targets,
)
from ..ops.object_chunks import sum_over_objects
from .rcnn import FasterRCNN


class MaskRCNN(FasterRCNN):
    """A two-stage detector with masks; its modules are Faster R-CNN's and `mask_head`.

    Args:
      backbone, fpn, rpn, box_head: as of `FasterRCNN`.
      mask_head: reads boxes pooled to its `roi_size`.
      settings: of `FasterRCNN`.
    """

    def __init__(
        self,
        backbone: nnx.Module,
        fpn: nnx.Module,
        rpn: nnx.Module,
        box_head: nnx.Module,
        mask_head: MaskHead,
        **settings,
    ):
        super().__init__(backbone, fpn, rpn, box_head, **settings)
        self.mask_head = mask_head

    def mask_outputs(
        self, features: list[jax.Array], boxes: jax.Array, classes: jax.Array
    ) -> jax.Array:
        """Return logits (B, R, M, M) of boxes (B, R, 4) with classes (B, R)."""
        pooled = self.pool(features, boxes, self.mask_head.roi_size)
        return self.mask_head(pooled, classes)

    def loss(
        self, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return the training loss and its parts, Faster R-CNN's and "mask".

        Masks are learned from the sampled proposals that are objects.

        Args:
          batch: images and annotations, with masks.
          key: as of `FasterRCNN.loss`.

        Raises:
          ValueError: the batch has no masks.
        """
        parts, features, sample = self.region_losses(batch, key)
        objects = mask_sample(sample)

        is_object = objects.is_object
        size = self.mask_head.roi_size
        pooled = self.pool(features, objects.boxes, size, is_object)
        targets = sampled_mask_targets(objects, batch, 2 * size)

        def surprise(pooled, labels, targets, is_object):
            logits = self.mask_head(pooled[None], labels[None])
            return mask_surprise(logits, targets[None], is_object[None])

        total = sum_over_objects(surprise, pooled, objects.labels, targets, is_object)
        parts |= {"mask": total / jnp.maximum(is_object.sum(), 1)}
        return sum(parts.values()), parts

    def predict(self, batch: Batch) -> Predictions:
        """Return the detections in `batch` with their masks."""
        found, features = self.detections(batch)
        logits = self.mask_outputs(features, found.boxes, found.classes)
        return dataclasses.replace(found, masks=jax.nn.sigmoid(logits))
