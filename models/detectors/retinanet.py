"""RetinaNet: backbone, feature pyramid and one head over all anchors.

Lin et al. 2017 ("Focal Loss for Dense Object Detection"); in every detail that changes
a number, torchvision's `retinanet_resnet50_fpn`, but that anchors stand on their cells
at any size of image, see `ops.anchors`.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from agvm_jax.structures import Batch, Predictions

from ..heads.retina import RetinaHead, retina_loss
from ..ops.anchors import cell_anchors, octave_sizes, pyramid_anchors
from ..ops.boxes import clip, decode
from ..ops.images import normalize_images
from ..ops.nms import nms
from ..ops.topk import top_k_pairs
from .checks import check_anchors, check_ranges


class RetinaNet(nnx.Module):
    """A one-stage detector; its modules are `backbone`, `fpn` and `head`.

    Args:
      backbone: images (B, H, W, 3) -> features, called with `train=` and `key=`.
      fpn: features -> {level: (B, h, w, C)}, finest first.
      head: its anchors a place are `anchor_scales * len(anchor_ratios)`.
      anchor_sizes: pixels, one for each level of the pyramid.
      anchor_scales: sizes a level, in equal steps up to the next level's.
      anchor_ratios: height / width.
      score_threshold: candidates below it are dropped before NMS.
      nms_threshold: IoU above which the weaker of two of one class is dropped.
      pre_nms_top_k: candidates that each level may send to NMS.
      max_detections: detections an image may have.
      image_mean: of red, green, blue, on the scale 0 to 255.
      image_std: on the same scale.

    Raises:
      ValueError: the anchors do not fit the head or the pyramid, or a threshold or
        count is out of range.
    """

    def __init__(
        self,
        backbone: nnx.Module,
        fpn: nnx.Module,
        head: RetinaHead,
        *,
        anchor_sizes: Sequence[float],
        anchor_scales: int,
        anchor_ratios: Sequence[float],
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
            head="the head",
            num_anchors=head.num_anchors,
        )
        check_ranges(
            thresholds={
                "score_threshold": score_threshold,
                "nms_threshold": nms_threshold,
            },
            counts={
                "pre_nms_top_k": pre_nms_top_k,
                "max_detections": max_detections,
            },
        )
        self.backbone = backbone
        self.fpn = fpn
        self.head = head
        self.anchor_sizes = octave_sizes(anchor_sizes, anchor_scales)
        self.anchor_ratios = tuple(anchor_ratios)
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.pre_nms_top_k = pre_nms_top_k
        self.max_detections = max_detections
        self.image_mean = tuple(image_mean)
        self.image_std = tuple(image_std)

    def outputs(
        self, batch: Batch, *, train: bool, key: jax.Array | None = None
    ) -> tuple[list[jax.Array], list[jax.Array], list[jax.Array]]:
        """Return logits, deltas and anchors of every level.

        Args:
          batch: images and their sizes.
          train: BatchNorm uses the batch's own statistics and keeps account of them.
          key: decides what a backbone with drop path leaves out in training.

        Returns:
          Three lists with one array a level, finest first: logits (B, A_l, K), deltas
          (B, A_l, 4) and anchors (A_l, 4).
        """
        images = normalize_images(
            batch.image, batch.image_size, self.image_mean, self.image_std
        )
        features = self.backbone(images, train=train, key=key)
        features = list(self.fpn(features).values())
        logits, deltas = self.head(features)
        cells = [cell_anchors(sizes, self.anchor_ratios) for sizes in self.anchor_sizes]
        grids = [feature.shape[1:3] for feature in features]
        return logits, deltas, pyramid_anchors(cells, grids, self.fpn.strides)

    def loss(
        self, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return the training loss and its parts "classification" and "box".

        Args:
          batch: images and annotations.
          key: decides what a backbone with drop path leaves out.
        """
        outputs = self.outputs(batch, train=True, key=key)
        return retina_loss(*outputs, batch, num_anchors=self.head.num_anchors)

    def predict(self, batch: Batch) -> Predictions:
        """Return the detections in `batch`; its annotations are not looked at."""
        logits, deltas, anchors = self.outputs(batch, train=False)
        detect = jax.vmap(self._detect, in_axes=(0, 0, None, 0))
        boxes, scores, classes, valid = detect(
            logits, deltas, anchors, batch.image_size
        )
        return Predictions(boxes=boxes, scores=scores, classes=classes, valid=valid)

    def _detect(
        self,
        logits: Sequence[jax.Array],
        deltas: Sequence[jax.Array],
        anchors: Sequence[jax.Array],
        image_size: jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Return boxes, scores, classes and valid of one image, see `Predictions`.

        Args:
          logits: one (A_l, K) array a level.
          deltas: one (A_l, 4) array a level.
          anchors: one (A_l, 4) array a level.
          image_size: (2,).
        """
        boxes, best_logits, classes = [], [], []
        for level_logits, level_deltas, level_anchors in zip(
            logits, deltas, anchors, strict=True
        ):
            best, place, label = top_k_pairs(level_logits, self.pre_nms_top_k)
            boxes.append(decode(level_deltas[place], level_anchors[place]))
            best_logits.append(best)
            classes.append(label)

        boxes = clip(jnp.concatenate(boxes), image_size)
        scores = jax.nn.sigmoid(jnp.concatenate(best_logits))
        classes = jnp.concatenate(classes).astype(jnp.int32)
        rows, valid = nms(
            boxes,
            scores,
            classes,
            scores > self.score_threshold,
            iou_threshold=self.nms_threshold,
            max_outputs=self.max_detections,
        )
        return (
            jnp.where(valid[:, None], boxes[rows], 0.0),
            jnp.where(valid, scores[rows], 0.0),
            jnp.where(valid, classes[rows], -1),
            valid,
        )
