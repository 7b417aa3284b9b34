"""The box head: the class and the exact box of each proposal, and their loss.

Girshick 2015 ("Fast R-CNN"), with the two fully connected layers that Lin et al. 2017
("Feature Pyramid Networks", section 4.2) put in place of conv5; in every detail that
changes a number, torchvision's.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float, Float32, Key

from agvm_jax.structures import Batch

from ..features import Features
from ..ops.arrays import Array
from ..ops.conv import conv2d
from ..ops.losses import smooth_l1
from .detections import Candidates, ThinOut, best_pairs
from .proposals import Proposals
from .ranges import check_ranges
from .roi_sample import RoiSample, sample_rois


class BoxLayers(nnx.Module):
    """Two fully connected layers, then K + 1 scores and some boxes.

    Args:
      in_channels: channels of the pyramid.
      num_classes: K; the background is class K.
      boxes: for each proposal: K, one for each class, or 1.
      width: units of each of the two layers.
      roi_size: bins of a pooled box along each side.
      dtype: what the activations are computed in.
      rngs: keys for the initial weights.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        boxes: int,
        width: int,
        roi_size: int,
        dtype,
        rngs: nnx.Rngs,
    ):
        def make_layer(inputs, outputs, kernel_init):
            return nnx.Linear(
                inputs, outputs, kernel_init=kernel_init, dtype=dtype, rngs=rngs
            )

        xavier = nnx.initializers.xavier_uniform()
        self.fc6 = make_layer(in_channels * roi_size**2, width, xavier)
        self.fc7 = make_layer(width, width, xavier)
        # Fast R-CNN, section 2.3: Gaussians of 0.01 and 0.001.
        self.class_logits = make_layer(
            width, num_classes + 1, nnx.initializers.normal(0.01)
        )
        self.box_deltas = make_layer(width, boxes * 4, nnx.initializers.normal(0.001))

    def __call__(
        self, pooled: Float[Array, "B R P P C"]
    ) -> tuple[Float32[Array, "B R logits"], Float32[Array, "B R _ 4"]]:
        """Map (B, R, P, P, C) to logits (B, R, K + 1) and deltas (B, R, boxes, 4).

        Both are float32.
        """
        x = pooled.reshape(*pooled.shape[:2], -1)
        x = jax.nn.relu(self.fc6(x))
        x = jax.nn.relu(self.fc7(x))
        deltas = self._last(self.box_deltas, x)
        return self._last(self.class_logits, x), deltas.reshape(*x.shape[:2], -1, 4)

    def _last(
        self, layer: nnx.Linear, x: Float[Array, "B R width"]
    ) -> Float32[Array, "B R out"]:
        """Apply a layer to (B, R, width) and do not round what it gives.

        A fully connected layer is a convolution of 1x1.
        """
        kernel = layer.kernel[...].astype(x.dtype)[None, None]
        y = conv2d(x[:, :, None], kernel, out_dtype=jnp.float32)[:, :, 0]
        return y + layer.bias[...]


class BoxHead(BoxLayers):
    """Two fully connected layers, then K + 1 scores and a box for each class.

    Its settings are the section `model.box_head`.

    Args:
      in_channels: channels of the pyramid.
      num_classes: K; the background is class K.
      width: units of each of the two layers.
      roi_size: bins of a pooled box along each side (Lin et al. 2017, section 4.2).
      samples: proposals an image that are learned from, by the mask head too.
      positive_fraction: the share of objects among these, at most (Fast R-CNN, section
        2.3).
      foreground_iou: a proposal that reaches it is an object, all else background, from
        0 up as everybody has it since.
      box_weights: deltas are multiplied by these, so that their spread is near 1 (the
        first implementation divided by standard deviations of 0.1 and 0.2).
      box_beta: where the loss of the boxes turns from a square into a line.
      pre_nms_top_k: detections of an image that go to NMS.
      score_threshold, nms_threshold, soft_nms, soft_nms_sigma, max_detections,
        min_side: what is left of detections, see `ThinOut`.
      loss_weight: what its losses are multiplied by.
      dtype: what the activations are computed in.
      rngs: keys for the initial weights.

    Raises:
      ValueError: a setting is out of range.
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
        foreground_iou: float = 0.5,
        box_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0),
        box_beta: float = 1.0 / 9.0,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        soft_nms: str = "",
        soft_nms_sigma: float = 0.5,
        pre_nms_top_k: int = 1000,
        max_detections: int = 100,
        min_side: float = 1e-2,
        loss_weight: float = 1.0,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_ranges(
            "model.box_head",
            shares={
                "positive_fraction": positive_fraction,
                "foreground_iou": foreground_iou,
            },
            counts={
                "num_classes": num_classes,
                "width": width,
                "roi_size": roi_size,
                "samples": samples,
                "pre_nms_top_k": pre_nms_top_k,
            },
            positive={"loss_weight": loss_weight},
        )

        super().__init__(
            in_channels,
            num_classes,
            boxes=num_classes,
            width=width,
            roi_size=roi_size,
            dtype=dtype,
            rngs=rngs,
        )
        self.num_classes = num_classes
        self.roi_size = roi_size
        self.samples = samples
        self.positive_fraction = positive_fraction
        self.foreground_iou = foreground_iou
        self.box_weights = tuple(box_weights)
        self.box_beta = box_beta
        self.pre_nms_top_k = pre_nms_top_k
        self.loss_weight = loss_weight
        self.thin_out = ThinOut(
            "model.box_head",
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
        """Return the parts of the loss, see `box_loss`, and what was learned from.

        Args:
          features: of the batch's images.
          proposals: of the same.
          batch: their annotations.
          key: decides which proposals are learned from.
        """
        sample = sample_rois(
            proposals,
            batch,
            key,
            num_classes=self.num_classes,
            samples=self.samples,
            positive_fraction=self.positive_fraction,
            foreground_iou=self.foreground_iou,
            box_weights=self.box_weights,
        )
        logits, deltas = self(features.pool(sample.boxes, self.roi_size))
        parts = box_loss(logits, deltas, sample, box_beta=self.box_beta)
        return {name: self.loss_weight * part for name, part in parts.items()}, sample

    def candidates(self, features: Features, proposals: Proposals) -> Candidates:
        """Return what may be detections among the proposals; `thin_out` is next."""
        logits, deltas = self(features.pool(proposals.boxes, self.roi_size))

        def of_image(*image):
            return best_pairs(
                *image, box_weights=self.box_weights, pre_nms_top_k=self.pre_nms_top_k
            )

        return jax.vmap(of_image)(logits, deltas, proposals, features.image_size)


def box_loss(
    logits: Float[Array, "B S C"],
    deltas: Float[Array, "B S _ 4"],
    sample: RoiSample,
    *,
    box_beta: float,
) -> dict[str, Float32[Array, ""]]:
    """Return the losses of sampled proposals, over the number of them in the batch.

    Args:
      logits: (B, S, K + 1).
      deltas: (B, S, K, 4), of which those of the right class are looked at, or (B, S,
        1, 4) for all classes.
      sample: what they should be.
      box_beta: where the loss of the boxes turns from a square into a line.

    Returns:
      "classification" (cross entropy) and "box" (smooth L1), float32 scalars.
    """
    log_probability = jax.nn.log_softmax(logits.astype(jnp.float32))
    classes = jnp.arange(logits.shape[-1])
    is_label = sample.labels[..., None] == classes  # (B, S, K + 1)
    cross_entropy = -jnp.where(is_label, log_probability, 0.0).sum(axis=-1)
    # By a mask and not an index, whose gradient would be a scatter.
    distance = smooth_l1(deltas, sample.targets[..., None, :], box_beta).sum(axis=-1)
    counted = is_label[..., :-1] & (sample.chosen & sample.is_object)[..., None]
    count = jnp.maximum(sample.chosen.sum(), 1)
    return {
        "classification": jnp.where(sample.chosen, cross_entropy, 0.0).sum() / count,
        "box": jnp.where(counted, distance, 0.0).sum() / count,
    }
