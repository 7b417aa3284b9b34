"""RetinaNet's head: class scores and deltas at every anchor.

Lin et al. 2017 ("Focal Loss for Dense Object Detection"), section 4. The same two
towers run on every level of the pyramid.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float, Float32, Integer

from agvm_jax.structures import Batch

from ..features import Features
from ..layers import Conv
from ..ops.anchors import Anchors
from ..ops.arrays import Array
from ..ops.boxes import clip, decode
from ..ops.topk import top_k_pairs
from .anchor_outputs import AnchorOutputs, by_place, deltas_of
from .detections import Candidates, ThinOut
from .ranges import check_ranges
from .retina_loss import retina_loss


class RetinaHead(nnx.Module):
    """Two towers of 3x3 convolutions: one scores classes, one gives deltas.

    Its settings are the section `model.retina_head`.

    Args:
      in_channels: channels of every level of the pyramid, and of the towers.
      num_classes: K, without a background class: each class is a binary decision.
      anchors: A of them at each place.
      num_convs: convolutions in each tower before the last one.
      foreground_iou: what an anchor's IoU must reach to be an object (section 4.1).
      background_iou: what it must stay below to be background; between the two it is
        ignored.
      focal_alpha, focal_gamma: of the focal loss (section 5.1, table 1b).
      prior_probability: with which every anchor starts as an object of each class; with
        0.5 the background would drown the first steps (section 4.1).
      pre_nms_top_k: candidates that each level may send to NMS.
      score_threshold, nms_threshold, soft_nms, soft_nms_sigma, max_detections: what is
        left of them, see `ThinOut`.
      dtype: what the activations are computed in.
      rngs: keys for the initial weights.

    Raises:
      ValueError: a setting is out of range.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        anchors: Anchors,
        *,
        num_convs: int = 4,
        foreground_iou: float = 0.5,
        background_iou: float = 0.4,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        prior_probability: float = 0.01,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        soft_nms: str = "",
        soft_nms_sigma: float = 0.5,
        pre_nms_top_k: int = 1000,
        max_detections: int = 100,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_ranges(
            "model.retina_head",
            shares={
                "foreground_iou": foreground_iou,
                "background_iou": background_iou,
                "focal_alpha": focal_alpha,
            },
            counts={
                "num_classes": num_classes,
                "pre_nms_top_k": pre_nms_top_k,
            },
        )

        if num_convs < 0:
            raise ValueError(
                f"model.retina_head.num_convs is {num_convs}: it must be at least 0"
            )
        if not 0.0 < prior_probability < 1.0:
            raise ValueError(
                f"model.retina_head.prior_probability is {prior_probability}: it must "
                "lie between 0 and 1"
            )

        def make_conv(out_channels, bias=0.0, out_dtype=None):
            return Conv(
                in_channels,
                out_channels,
                3,
                use_bias=True,
                kernel_init=nnx.initializers.normal(0.01),
                bias_init=nnx.initializers.constant(bias),
                dtype=dtype,
                out_dtype=out_dtype,
                rngs=rngs,
            )

        prior = -math.log((1.0 - prior_probability) / prior_probability)
        count = anchors.per_place
        self.class_tower = nnx.List([make_conv(in_channels) for _ in range(num_convs)])
        self.class_logits = make_conv(count * num_classes, prior, jnp.float32)
        self.box_tower = nnx.List([make_conv(in_channels) for _ in range(num_convs)])
        self.box_deltas = make_conv(count * 4, out_dtype=jnp.float32)
        self.num_classes = num_classes
        self.anchors = anchors
        self.foreground_iou = foreground_iou
        self.background_iou = background_iou
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma
        self.pre_nms_top_k = pre_nms_top_k
        self.thin_out = ThinOut(
            "model.retina_head",
            score_threshold=score_threshold,
            nms_threshold=nms_threshold,
            soft_nms=soft_nms,
            soft_nms_sigma=soft_nms_sigma,
            max_detections=max_detections,
        )

    def __call__(
        self, levels: Sequence[Float[Array, "B _ _ C"]]
    ) -> tuple[list[Float32[Array, "B _ _ A_K"]], list[Float32[Array, "B _ _ A_4"]]]:
        """Return logits and deltas of every level, see `AnchorOutputs`.

        Args:
          levels: one (B, H, W, C) array a level, finest first.
        """

        def run(tower, last, x):
            for conv in tower:
                x = jax.nn.relu(conv(x))
            return last(x)

        logits = [run(self.class_tower, self.class_logits, x) for x in levels]
        deltas = [run(self.box_tower, self.box_deltas, x) for x in levels]
        return logits, deltas

    def outputs(self, features: Features) -> AnchorOutputs:
        """Return what the head says, with the anchors of which it says so."""
        anchors = self.anchors.of_pyramid(features.grids, features.strides)
        return AnchorOutputs(*self(features.levels), anchors)

    def loss(self, features: Features, batch: Batch) -> dict[str, Float32[Array, ""]]:
        """Return the parts of the loss, see `retina_loss`."""
        return retina_loss(
            self.outputs(features),
            batch,
            foreground_iou=self.foreground_iou,
            background_iou=self.background_iou,
            focal_alpha=self.focal_alpha,
            focal_gamma=self.focal_gamma,
        )

    def candidates(self, features: Features) -> Candidates:
        """Return what may be detections, of every level; `thin_out` is next."""
        logits, deltas, anchors = self.outputs(features)

        def of_image(logits, deltas, image_size):
            return self._best(AnchorOutputs(logits, deltas, anchors), image_size)

        return jax.vmap(of_image)(logits, deltas, features.image_size)

    def _best(
        self, outputs: AnchorOutputs, image_size: Integer[Array, "2"]
    ) -> Candidates:
        """Return those of one image: maps of (H, W, A x C), a size of (2,)."""
        boxes, logits, classes = [], [], []
        for level_logits, level_deltas, level_anchors in zip(*outputs, strict=True):
            rows = level_logits.reshape(-1, self.num_classes)  # one for each anchor
            best, row, label = top_k_pairs(rows, self.pre_nms_top_k)
            found = deltas_of(by_place(level_deltas), row)
            boxes.append(decode(found, level_anchors[row]))
            logits.append(best)
            classes.append(label)
        scores = jax.nn.sigmoid(jnp.concatenate(logits))
        boxes = clip(jnp.concatenate(boxes), image_size)
        return Candidates(boxes, scores, jnp.concatenate(classes))
