"""Faster R-CNN: proposals first, then the class and the exact box of each.

Ren et al. 2015, on a feature pyramid (Lin et al. 2017); in every detail that changes a
number, torchvision's `fasterrcnn_resnet50_fpn`, but that anchors stand on their cells
at any size of image, see `ops.anchors`.
"""

from collections.abc import Sequence

import jax
from flax import nnx

from agvm_jax.structures import Batch, Predictions

from ..heads.box import BoxHead, RoiSample, box_loss, detect, sample_rois
from ..heads.rpn import RPNHead, propose, rpn_loss
from ..ops.anchors import cell_anchors, octave_sizes, pyramid_anchors
from ..ops.images import normalize_images
from ..ops.roi_align import roi_align
from .checks import check_anchors, check_ranges

# As torchvision pools: 2 x 2 samples a bin, cells as points.
SAMPLING_RATIO = 2


class FasterRCNN(nnx.Module):
    """A two-stage detector; its modules are `backbone`, `fpn`, `rpn` and `box_head`.

    Pairs are (training, evaluation).

    Args:
      backbone: images (B, H, W, 3) -> features, called with `train=` and `key=`.
      fpn: features -> {level: (B, h, w, C)}, finest first. Proposals come from all
        levels; boxes are read from all but the last.
      rpn: its anchors a place are `anchor_scales * len(anchor_ratios)`.
      box_head: reads boxes pooled to its `roi_size`.
      anchor_sizes: pixels, one for each level of the pyramid.
      anchor_scales: sizes a level, in equal steps up to the next level's.
      anchor_ratios: height / width.
      rpn_pre_nms_top_k: pair, candidates that each level may send to NMS.
      rpn_post_nms_top_k: pair, proposals an image may have.
      rpn_nms_threshold: IoU above which the weaker of two of a level is dropped.
      rpn_samples: anchors an image that the RPN learns from.
      roi_samples: proposals an image that the box head learns from.
      score_threshold: detections below it are dropped before NMS.
      nms_threshold: IoU above which the weaker of two of one class is dropped.
      pre_nms_top_k: detections of an image that go to NMS.
      max_detections: detections an image may have.
      image_mean: of red, green, blue, on the scale 0 to 255.
      image_std: on the same scale.

    Raises:
      ValueError: the anchors do not fit the RPN or the pyramid, or a threshold or
        count is out of range.
    """

    def __init__(
        self,
        backbone: nnx.Module,
        fpn: nnx.Module,
        rpn: RPNHead,
        box_head: BoxHead,
        *,
        anchor_sizes: Sequence[float],
        anchor_scales: int,
        anchor_ratios: Sequence[float],
        rpn_pre_nms_top_k: tuple[int, int],
        rpn_post_nms_top_k: tuple[int, int],
        rpn_nms_threshold: float,
        rpn_samples: int,
        roi_samples: int,
        score_threshold: float,
        nms_threshold: float,
        pre_nms_top_k: int,
        max_detections: int,
        image_mean: Sequence[float],
        image_std: Sequence[float],
    ):
        check_anchors(
            anchor_sizes,
            anchor_scales,
            anchor_ratios,
            levels=fpn.levels,
            head="the RPN",
            num_anchors=rpn.num_anchors,
        )
        check_ranges(
            thresholds={
                "rpn_nms_threshold": rpn_nms_threshold,
                "score_threshold": score_threshold,
                "nms_threshold": nms_threshold,
            },
            counts={
                "rpn_samples": rpn_samples,
                "roi_samples": roi_samples,
                "pre_nms_top_k": pre_nms_top_k,
                "max_detections": max_detections,
            },
        )
        for name, value in {
            "rpn_pre_nms_top_k": rpn_pre_nms_top_k,
            "rpn_post_nms_top_k": rpn_post_nms_top_k,
        }.items():
            if len(value) != 2 or min(value) < 1:
                raise ValueError(
                    f"{name} is {tuple(value)}: two numbers of at least 1 are needed, "
                    "for training and for evaluation"
                )
        self.backbone = backbone
        self.fpn = fpn
        self.rpn = rpn
        self.box_head = box_head
        self.anchor_sizes = octave_sizes(anchor_sizes, anchor_scales)
        self.anchor_ratios = tuple(anchor_ratios)
        self.rpn_pre_nms_top_k = tuple(rpn_pre_nms_top_k)
        self.rpn_post_nms_top_k = tuple(rpn_post_nms_top_k)
        self.rpn_nms_threshold = rpn_nms_threshold
        self.rpn_samples = rpn_samples
        self.roi_samples = roi_samples
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.pre_nms_top_k = pre_nms_top_k
        self.max_detections = max_detections
        self.image_mean = tuple(image_mean)
        self.image_std = tuple(image_std)

    def features(
        self, batch: Batch, *, train: bool, key: jax.Array | None = None
    ) -> list[jax.Array]:
        """Return the pyramid of the images, one (B, h, w, C) a level, finest first.

        Args:
          batch: images and their sizes.
          train: BatchNorm uses the batch's own statistics and keeps account of them.
          key: decides what a backbone with drop path leaves out in training.
        """
        images = normalize_images(
            batch.image, batch.image_size, self.image_mean, self.image_std
        )
        features = self.backbone(images, train=train, key=key)
        return list(self.fpn(features).values())

    def rpn_outputs(
        self, features: Sequence[jax.Array], batch: Batch
    ) -> tuple[list[jax.Array], list[jax.Array], list[jax.Array]]:
        """Return the RPN's logits, deltas and anchors of every level.

        Returns:
          Three lists with one array a level, finest first: logits (B, A_l), deltas
          (B, H * W, 4 A) and anchors (A_l, 4), A_l = H * W * A.
        """
        logits, deltas = self.rpn(features)
        cells = [cell_anchors(sizes, self.anchor_ratios) for sizes in self.anchor_sizes]
        grids = [feature.shape[1:3] for feature in features]
        return logits, deltas, pyramid_anchors(cells, grids, self.fpn.strides)

    def proposals(
        self,
        outputs: tuple[list[jax.Array], list[jax.Array], list[jax.Array]],
        batch: Batch,
        *,
        train: bool,
    ) -> tuple[jax.Array, jax.Array]:
        """Return boxes (B, P, 4) and valid (B, P) from the RPN's outputs."""
        which = 0 if train else 1
        return propose(
            *outputs,
            batch.image_size,
            pre_nms_top_k=self.rpn_pre_nms_top_k[which],
            max_proposals=self.rpn_post_nms_top_k[which],
            nms_threshold=self.rpn_nms_threshold,
        )

    def pool(
        self,
        features: Sequence[jax.Array],
        boxes: jax.Array,
        size: int,
        valid: jax.Array | None = None,
    ) -> jax.Array:
        """Return the features under boxes (B, R, 4), (B, R, size, size, C).

        Boxes that are not in `valid` (B, R) give zeros and cost nothing.
        """
        return roi_align(
            features[:-1],
            boxes,
            valid,
            strides=self.fpn.strides[:-1],
            output_size=size,
            sampling_ratio=SAMPLING_RATIO,
        )

    def box_outputs(
        self, features: Sequence[jax.Array], boxes: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return logits (B, R, K + 1) and deltas (B, R, K, 4) of boxes (B, R, 4)."""
        return self.box_head(self.pool(features, boxes, self.box_head.roi_size))

    def region_losses(
        self, batch: Batch, key: jax.Array
    ) -> tuple[dict[str, jax.Array], list[jax.Array], RoiSample]:
        """Return the parts of the loss, the pyramid and the proposals learned from.

        Args:
          batch: images and annotations.
          key: decides which anchors and which proposals are looked at.
        """
        backbone_key, anchor_key, roi_key = jax.random.split(key, 3)
        features = self.features(batch, train=True, key=backbone_key)
        outputs = self.rpn_outputs(features, batch)
        parts = rpn_loss(*outputs, batch, anchor_key, num_samples=self.rpn_samples)
        sample = sample_rois(
            *self.proposals(outputs, batch, train=True),
            batch,
            roi_key,
            num_classes=self.box_head.num_classes,
            num_samples=self.roi_samples,
        )
        parts |= box_loss(*self.box_outputs(features, sample.boxes), sample)
        return parts, features, sample

    def detections(self, batch: Batch) -> tuple[Predictions, list[jax.Array]]:
        """Return the detections in `batch` and the pyramid that they were read from."""
        features = self.features(batch, train=False)
        outputs = self.rpn_outputs(features, batch)
        proposals, valid = self.proposals(outputs, batch, train=False)
        logits, deltas = self.box_outputs(features, proposals)

        def detect_one(*image):
            return detect(
                *image,
                score_threshold=self.score_threshold,
                nms_threshold=self.nms_threshold,
                pre_nms_top_k=self.pre_nms_top_k,
                max_detections=self.max_detections,
            )

        boxes, scores, classes, valid = jax.vmap(detect_one)(
            logits, deltas, proposals, valid, batch.image_size
        )
        found = Predictions(boxes=boxes, scores=scores, classes=classes, valid=valid)
        return found, features

    def loss(
        self, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return the training loss and its parts.

        The parts are "objectness" and "rpn_box" of the proposals, "classification" and
        "box" of the detections.

        Args:
          batch: images and annotations.
          key: decides which anchors and which proposals are looked at.
        """
        parts, _, _ = self.region_losses(batch, key)
        return sum(parts.values()), parts

    def predict(self, batch: Batch) -> Predictions:
        """Return the detections in `batch`; its annotations are not looked at."""
        return self.detections(batch)[0]
