"""The region proposal network: where there may be an object, of whatever class.

Ren et al. 2015 ("Faster R-CNN"), section 3.1, on every level of a pyramid (Lin et al.
2017); in every detail that changes a number, torchvision's.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float, Float32, Key

from agvm_jax.structures import Batch

from ..features import Features
from ..layers import Conv
from ..ops.anchors import Anchors
from ..ops.arrays import Array
from ..ops.boxes import encode
from ..ops.losses import smooth_l1
from ..ops.matching import BACKGROUND, match_objects
from ..ops.sampling import sample_balanced
from .anchor_outputs import AnchorOutputs, by_place, deltas_of
from .proposals import Proposals, propose
from .ranges import check_ranges


class RPNHead(nnx.Module):
    """A 3x3 convolution, then one score and four deltas for each anchor.

    Its settings are the section `model.rpn`. Pairs are (training, evaluation).

    Args:
      in_channels: channels of every level of the pyramid.
      anchors: A of them at each place.
      pre_nms_top_k: pair, candidates that each level may send to NMS.
      post_nms_top_k: pair, proposals an image may have.
      nms_threshold: IoU above which the weaker of two of a level is dropped.
      samples: anchors an image that are learned from.
      positive_fraction: the share of objects among these, at most (section 3.1.3).
      foreground_iou: what an anchor's IoU must reach to be an object (section 3.1.2).
      background_iou: what it must stay below to be background.
      box_beta: where the loss of the boxes turns from a square into a line. As in
        torchvision and detectron2: sigma = 3 of the first implementation.
      min_side: pixels; proposals with a side below it are dropped.
      dtype: what the activations are computed in.
      rngs: keys for the initial weights.

    Raises:
      ValueError: a setting is out of range.
    """

    def __init__(
        self,
        in_channels: int,
        anchors: Anchors,
        *,
        pre_nms_top_k: Sequence[int] = (2000, 1000),
        post_nms_top_k: Sequence[int] = (2000, 1000),
        nms_threshold: float = 0.7,
        samples: int = 256,
        positive_fraction: float = 0.5,
        foreground_iou: float = 0.7,
        background_iou: float = 0.3,
        box_beta: float = 1.0 / 9.0,
        min_side: float = 1e-3,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_ranges(
            "model.rpn",
            shares={
                "nms_threshold": nms_threshold,
                "positive_fraction": positive_fraction,
                "foreground_iou": foreground_iou,
                "background_iou": background_iou,
            },
            counts={"samples": samples},
            pairs={"pre_nms_top_k": pre_nms_top_k, "post_nms_top_k": post_nms_top_k},
        )

        def make_conv(out_channels, size, out_dtype=None):
            return Conv(
                in_channels,
                out_channels,
                size,
                use_bias=True,
                kernel_init=nnx.initializers.normal(0.01),
                dtype=dtype,
                out_dtype=out_dtype,
                rngs=rngs,
            )

        self.conv = make_conv(in_channels, 3)
        self.objectness = make_conv(anchors.per_place, 1, jnp.float32)
        self.box_deltas = make_conv(anchors.per_place * 4, 1, jnp.float32)
        self.anchors = anchors
        self.pre_nms_top_k = tuple(pre_nms_top_k)
        self.post_nms_top_k = tuple(post_nms_top_k)
        self.nms_threshold = nms_threshold
        self.samples = samples
        self.positive_fraction = positive_fraction
        self.foreground_iou = foreground_iou
        self.background_iou = background_iou
        self.box_beta = box_beta
        self.min_side = min_side

    def __call__(
        self, levels: Sequence[Float[Array, "B _ _ C"]]
    ) -> tuple[list[Float32[Array, "B _ _ A"]], list[Float32[Array, "B _ _ A*4"]]]:
        """Return logits and deltas of every level, see `AnchorOutputs`.

        Args:
          levels: one (B, H, W, C) array a level, finest first.
        """
        logits, deltas = [], []
        for level in levels:
            x = jax.nn.relu(self.conv(level))
            logits.append(self.objectness(x))
            deltas.append(self.box_deltas(x))
        return logits, deltas

    def outputs(self, features: Features) -> AnchorOutputs:
        """Return what the head says, with the anchors of which it says so."""
        anchors = self.anchors.of_pyramid(features.grids, features.strides)
        return AnchorOutputs(*self(features.levels), anchors)

    def loss(
        self, features: Features, batch: Batch, key: Key[Array, ""]
    ) -> tuple[dict[str, Float32[Array, ""]], Proposals]:
        """Return the parts of the loss, see `rpn_loss`, and proposals for training.

        Args:
          features: of the batch's images.
          batch: its annotations.
          key: decides which anchors are learned from.
        """
        outputs = self.outputs(features)
        parts = rpn_loss(
            outputs,
            batch,
            key,
            samples=self.samples,
            positive_fraction=self.positive_fraction,
            foreground_iou=self.foreground_iou,
            background_iou=self.background_iou,
            box_beta=self.box_beta,
        )
        return parts, self._propose(outputs, features.image_size, 0)

    def propose(self, features: Features) -> Proposals:
        """Return the proposals for evaluation."""
        return self._propose(self.outputs(features), features.image_size, 1)

    def _propose(self, outputs, image_size, which):
        return propose(
            outputs,
            image_size,
            pre_nms_top_k=self.pre_nms_top_k[which],
            max_proposals=self.post_nms_top_k[which],
            nms_threshold=self.nms_threshold,
            min_side=self.min_side,
        )


def rpn_loss(
    outputs: AnchorOutputs,
    batch: Batch,
    key: Key[Array, ""],
    *,
    samples: int,
    positive_fraction: float,
    foreground_iou: float,
    background_iou: float,
    box_beta: float,
) -> dict[str, Float32[Array, ""]]:
    """Return the losses of a random sample of each image's anchors.

    Both are divided by the number of sampled anchors of the batch (Faster R-CNN,
    equation 1, as torchvision balances it). Crowd regions are no targets, and an anchor
    that lies in one by more than half is not taught to be background. Padding images
    count for nothing.

    Args:
      outputs: with one logit an anchor.
      batch: B images' annotations.
      key: decides which anchors are learned from.
      samples, positive_fraction, foreground_iou, background_iou, box_beta: as of
        `RPNHead`.

    Returns:
      "objectness" (binary cross entropy) and "rpn_box" (smooth L1), float32 scalars.
    """
    anchors = jnp.concatenate(outputs.anchors)

    def choose(key, boxes, valid, crowd):
        matches = match_objects(
            anchors,
            boxes,
            valid,
            crowd,
            foreground_iou=foreground_iou,
            background_iou=background_iou,
            low_quality=True,
        )
        rows, chosen, is_object = sample_balanced(
            key,
            matches >= 0,
            matches == BACKGROUND,
            size=samples,
            positive_fraction=positive_fraction,
        )
        own = anchors[rows]
        # An anchor without an object is its own target: padding has no logarithm.
        target = boxes[jnp.maximum(matches[rows], 0)].astype(jnp.float32)
        target = jnp.where(is_object[:, None], target, own)
        return rows, chosen, is_object, encode(target, own)

    keys = jax.random.split(key, batch.boxes.shape[0])
    rows, chosen, is_object, targets = jax.vmap(choose)(
        keys, batch.boxes, batch.valid, batch.crowd
    )
    chosen &= (batch.image_id >= 0)[:, None]  # (B, S)

    logits = [level.reshape(level.shape[0], -1) for level in outputs.logits]
    logits = jnp.take_along_axis(jnp.concatenate(logits, axis=1), rows, axis=1)
    cross_entropy = jax.nn.softplus(jnp.where(is_object, -logits, logits))  # (B, S)
    deltas = jnp.concatenate([by_place(level) for level in outputs.deltas], axis=1)
    deltas = jax.vmap(deltas_of)(deltas, rows)
    distance = smooth_l1(deltas, targets, box_beta).sum(-1)  # (B, S)
    count = jnp.maximum(chosen.sum(), 1)
    return {
        "objectness": jnp.where(chosen, cross_entropy, 0.0).sum() / count,
        "rpn_box": jnp.where(chosen & is_object, distance, 0.0).sum() / count,
    }
