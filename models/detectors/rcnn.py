"""The R-CNNs: proposals first, then what each of them is.

With a box head Faster R-CNN (Ren et al. 2015) on a feature pyramid (Lin et al. 2017),
with a mask head as well Mask R-CNN (He et al. 2017), with a cascade of box heads
Cascade R-CNN (Cai and Vasconcelos 2018). In every detail that changes a number the
first two are torchvision's `fasterrcnn_resnet50_fpn` and `maskrcnn_resnet50_fpn`, but
that anchors stand on their cells at any size of image, see `ops.anchors`, and for the
targets of the masks, see `ops.masks`.
"""

import dataclasses

import jax
from flax import nnx

from agvm_jax.structures import Batch, Predictions

from ..features import Features
from ..fpn import FPN
from ..heads.box import BoxHead
from ..heads.detections import join
from ..heads.mask import MaskHead
from ..heads.rpn import RPNHead
from ..heads.semantic import STRIDE
from ..views import View
from .pyramid import PyramidDetector


class RCNN(PyramidDetector):
    """A two-stage detector, made of the heads that it is given.

    Its modules are `backbone`, `fpn`, `rpn`, `box_head` and the others that are there.

    Args:
      backbone, fpn, images: as of `PyramidDetector`.
      rpn: makes the proposals, from every level of the pyramid.
      box_head: `loss(features, proposals, batch, key) -> (parts, RoiSample)`,
        `candidates(features, proposals) -> Candidates` and `thin_out(candidates) ->
        Predictions`.
      mask_head: None, or with `loss(features, sample, batch) -> parts` and
        `predict(features, predictions) -> (B, D, M, M)`.
      semantic_head: None, or with `loss(features, batch) -> parts` and
        `predict(features, batch) -> (B, H, W)`, the class of each pixel; for several
        views what `SemanticHead` has besides.

    Raises:
      ValueError: the RPN's anchors do not fit the pyramid.
    """

    def __init__(
        self,
        backbone: nnx.Module,
        fpn: FPN,
        rpn: RPNHead,
        box_head: BoxHead,
        mask_head: MaskHead | None = None,
        semantic_head: nnx.Module | None = None,
        **images,
    ):
        super().__init__(backbone, fpn, **images)
        rpn.anchors.check_levels(fpn.levels)
        self.rpn = rpn
        self.box_head = box_head
        self.mask_head = mask_head
        self.semantic_head = semantic_head

    @property
    def outputs(self) -> frozenset[str]:
        """What predictions have, which follows from the heads that are there."""
        heads = {"masks": self.mask_head, "semantic": self.semantic_head}
        there = (name for name, head in heads.items() if head is not None)
        return frozenset({"boxes", *there})

    def loss(
        self, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return the training loss and its parts.

        The parts are "objectness" and "rpn_box" of the proposals, "classification" and
        "box" of the box head (a cascade's are numbered), "mask", and those of the
        semantic head.

        Args:
          batch: images and annotations, with what the heads learn from.
          key: decides which anchors and which proposals are learned from, and what a
            backbone with drop path leaves out.

        Raises:
          ValueError: the batch lacks masks and there is a mask head.
        """
        backbone_key, anchor_key, roi_key = jax.random.split(key, 3)
        features = self.features(batch, train=True, key=backbone_key)
        parts, proposals = self.rpn.loss(features, batch, anchor_key)
        more, sample = self.box_head.loss(features, proposals, batch, roi_key)
        parts |= more
        if self.mask_head is not None:
            parts |= self.mask_head.loss(features, sample, batch)
        if self.semantic_head is not None:
            parts |= self.semantic_head.loss(features, batch)
        return sum(parts.values()), parts

    def predict(self, batch: Batch) -> Predictions:
        """Return what is found in `batch`; its annotations are not looked at.

        What several views have found goes through NMS together; masks are the mean of
        what each view says of the boxes that are left, as in detectron2.
        """
        looks, size = self.looks(batch), batch.image_size
        parts = []
        for view, features in looks:
            found = self.box_head.candidates(features, self.rpn.propose(features))
            parts.append(found._replace(boxes=view.back(found.boxes, size)))
        found = self.box_head.thin_out(join(parts))
        more = {}
        if self.mask_head is not None:
            more["masks"] = self._masks(looks, found, size)
        if self.semantic_head is not None:
            more["semantic"] = self._semantic(looks, batch)
        return dataclasses.replace(found, **more)

    def _masks(
        self, looks: list[tuple[View, Features]], found: Predictions, size: jax.Array
    ) -> jax.Array:
        """Return the masks of detections in images of these sizes: (B, D, M, M)."""
        total = 0.0
        for view, features in looks:
            seen = dataclasses.replace(found, boxes=view.forth(found.boxes, size))
            total += view.masks_back(self.mask_head.predict(features, seen))
        return total if len(looks) == 1 else total / len(looks)

    def _semantic(self, looks: list[tuple[View, Features]], batch: Batch) -> jax.Array:
        """Return the class of each pixel, by the sum of all views' logits."""
        if len(looks) == 1 and looks[0][0].plain:
            return self.semantic_head.predict(looks[0][1], batch)
        frame, total = batch.image.shape[1:3], 0.0
        grid = tuple(-(-side // STRIDE) for side in frame)
        for view, features in looks:
            logits = self.semantic_head(features)
            total += view.cells_back(logits, batch.image_size, grid, STRIDE)
        return self.semantic_head.labels(total, frame)
