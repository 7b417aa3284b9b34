"""An R-CNN on a backbone of four layers, so that it compiles quickly; its images."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from agvm_jax.structures import Batch
from models.fpn import FPN
from models.heads.box import BoxHead
from models.heads.mask import MaskHead
from models.heads.rpn import RPNHead
from models.layers import Conv
from models.ops.anchors import Anchors

K, HEIGHT, WIDTH, CHANNELS = 3, 64, 96, 8
ANCHORS = Anchors(sizes=(8.0, 16.0, 32.0, 64.0, 128.0), ratios=(0.5, 1.0))
RPN = {
    "pre_nms_top_k": (60, 40),
    "post_nms_top_k": (50, 30),
    "nms_threshold": 0.6,
    "samples": 2000,  # all anchors, so that the gradient reaches all
}
BOX_HEAD = {
    "roi_size": 3,
    "width": 16,
    "samples": 16,
    "score_threshold": 0.35,
    "nms_threshold": 0.3,
    "pre_nms_top_k": 60,
    "max_detections": 12,
}
MASK_HEAD = {"num_convs": 2, "roi_size": 4}
IMAGES = {"image_mean": (110.0,) * 3, "image_std": (60.0,) * 3}
BOXES = ((10, 10, 40, 50), (50, 5, 80, 30))
# Boxes that no sane annotation has and some data sets have.
POOR_BOXES = {
    "none": (),
    "smaller than a pixel": ((5, 5, 5.25, 5.5),),
    "without area": ((5, 5, 5, 5),),
    "outside the image": ((500, 500, 520, 530),),
}


class FourLayers(nnx.Module):
    """C2 to C5 by one strided convolution each."""

    channels = {"c2": 4, "c3": 4, "c4": 4, "c5": 4}

    def __init__(self, dtype, rngs):
        make = functools.partial(Conv, dtype=dtype, rngs=rngs)
        self.layers = nnx.List(
            [make(3, 4, 3, stride=4), *(make(4, 4, 3, stride=2) for _ in range(3))]
        )

    def freeze(self, parts):
        assert not parts

    def __call__(self, x, *, train, key=None):
        del train, key
        outputs = {}
        for name, layer in zip(self.channels, self.layers, strict=True):
            x = jax.nn.relu(layer(x))
            outputs[name] = x
        return outputs


def make_parts(
    rngs, *, dtype=jnp.float32, masks=False, anchors=ANCHORS, rpn=(), box=()
):
    """Backbone, pyramid and heads of a small R-CNN, by their names."""
    options = {"dtype": dtype, "rngs": rngs}
    backbone = FourLayers(**options)
    fpn = FPN(backbone.channels, CHANNELS, first_level=2, extra="max_pool", **options)
    heads = {
        "rpn": RPNHead(CHANNELS, anchors, **RPN | dict(rpn), **options),
        "box_head": BoxHead(CHANNELS, K, **BOX_HEAD | dict(box), **options),
    }
    if masks:
        heads["mask_head"] = MaskHead(CHANNELS, K, **MASK_HEAD, **options)
    return {"backbone": backbone, "fpn": fpn, **heads}


def make_batch(boxes=BOXES):
    rng = np.random.default_rng(0)
    rows = np.zeros((2, 3, 4), np.float32)
    for row, box in enumerate(boxes):
        rows[:, row] = box
    return Batch(
        image=jnp.asarray(rng.integers(0, 256, (2, HEIGHT, WIDTH, 3)), jnp.uint8),
        image_size=jnp.array([[HEIGHT, WIDTH], [HEIGHT - 14, WIDTH - 30]], jnp.int32),
        image_id=jnp.arange(2, dtype=jnp.int32),
        boxes=jnp.asarray(rows),
        classes=jnp.asarray(rng.integers(0, K, (2, 3)), jnp.int32),
        valid=jnp.asarray(np.tile(np.arange(3) < len(boxes), (2, 1))),
        crowd=jnp.zeros((2, 3), bool),
    )


def make_batch_with_masks(boxes=BOXES, fill=None, side=6):
    shape = (2, 3, side, side)
    masks = np.random.default_rng(0).random(shape) < 0.6
    masks = masks if fill is None else np.full(shape, fill)
    return dataclasses.replace(make_batch(boxes), masks=jnp.asarray(masks, jnp.uint8))
