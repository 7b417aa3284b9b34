"""With the same weights our Mask R-CNN (ResNet-50 FPN) is torchvision's.

`make_mask_rcnn_oracle.py` says how the expected values were made. One thing differs by
design: the targets of the masks, ours exact shares, theirs bilinear samples of the
bitmap that sit half a pixel aside. So the loss is compared with their targets, which
RoIAlign of the bitmaps gives, and the two kinds of targets with each other.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparisons import assert_close, assert_norms_agree, by_path, expected_norms
from seeded_weights import (
    MASK_CANVAS,
    MASK_OBJECTS,
    MASK_PICTURES,
    MASK_SIDE,
    NUM_CLASSES,
    RCNN_MAX_DETECTIONS,
    RCNN_POST_NMS_TOP_K,
    RCNN_PRE_NMS_TOP_K,
    RCNN_SAMPLES,
    make_bitmaps,
    make_masks,
    make_pictures,
    make_rcnn_tensor,
)
from test_torchvision_faster_rcnn import faster_rcnn_names

from agvm_jax.structures import Batch
from configs import mask_rcnn
from models.build import build_detector
from models.heads.mask import mask_sample, mask_surprise, sampled_mask_targets
from models.ops.roi_align import roi_align
from models.pretrained import MASK_RCNN_RULES, from_torchvision

ORACLE = Path(__file__).with_name("mask_rcnn_oracle.npz")
ROWS = 4


def mask_rcnn_names() -> dict[str, tuple[int, ...]]:
    """Names and shapes of `maskrcnn_resnet50_fpn`'s state dict, written by hand."""
    shapes = faster_rcnn_names()

    def layer(name, *shape, outputs):
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = (outputs,)

    for index in range(4):
        layer(f"roi_heads.mask_head.{index}.0", 256, 256, 3, 3, outputs=256)
    layer("roi_heads.mask_predictor.conv5_mask", 256, 256, 2, 2, outputs=256)
    classes = NUM_CLASSES + 1
    name = "roi_heads.mask_predictor.mask_fcn_logits"
    layer(name, classes, 256, 1, 1, outputs=classes)
    return shapes


def make_batch() -> Batch:
    count = len(MASK_OBJECTS)
    image = np.zeros((count, *MASK_CANVAS, 3), np.uint8)
    boxes = np.zeros((count, ROWS, 4), np.float32)
    classes = np.zeros((count, ROWS), np.int32)
    valid = np.zeros((count, ROWS), bool)
    masks = np.zeros((count, ROWS, MASK_SIDE, MASK_SIDE), np.uint8)
    for index, (picture, objects, own) in enumerate(
        zip(make_pictures(MASK_PICTURES), MASK_OBJECTS, make_masks(), strict=True)
    ):
        height, width = picture.shape[:2]
        image[index, :height, :width] = picture
        for row, (*box, label) in enumerate(objects):
            boxes[index, row], classes[index, row] = box, label
            valid[index, row] = True
            masks[index, row] = own[row]
    return Batch(
        image=jnp.asarray(image),
        image_size=jnp.asarray(MASK_PICTURES, jnp.int32),
        image_id=jnp.arange(count, dtype=jnp.int32),
        boxes=jnp.asarray(boxes),
        classes=jnp.asarray(classes),
        valid=jnp.asarray(valid),
        crowd=jnp.zeros((count, ROWS), bool),
        masks=jnp.asarray(masks),
    )


def make_canvases() -> jax.Array:
    """The bitmaps of all objects, (B, H, W, ROWS)."""
    canvas = np.zeros((len(MASK_OBJECTS), *MASK_CANVAS, ROWS), np.float32)
    for index, bitmaps in enumerate(make_bitmaps()):
        count, height, width = bitmaps.shape
        canvas[index, :height, :width, :count] = bitmaps.transpose(1, 2, 0)
    return jnp.asarray(canvas)


@pytest.fixture(scope="module")
def detector():
    config = mask_rcnn.get_config().model
    config.update(
        norm="frozen",
        dtype="float32",
        rpn_pre_nms_top_k=(RCNN_PRE_NMS_TOP_K,) * 2,
        rpn_post_nms_top_k=(RCNN_POST_NMS_TOP_K,) * 2,
        rpn_samples=RCNN_SAMPLES,
        roi_samples=4 * (RCNN_POST_NMS_TOP_K + ROWS),  # a quarter may be objects
        max_detections=RCNN_MAX_DETECTIONS,
    )
    return build_detector(config, num_classes=NUM_CLASSES, image_size=MASK_CANVAS)


@pytest.fixture(scope="module")
def ours(detector):
    """What the oracle holds, from one compiled program."""
    tensors = {
        name: make_rcnn_tensor(name, shape) for name, shape in mask_rcnn_names().items()
    }
    shapes = jax.eval_shape(detector.init, jax.random.key(0))
    params, model_state = from_torchvision(tensors, *shapes, MASK_RCNN_RULES)

    @jax.jit
    def run(params, model_state, batch, bitmaps):
        def loss(params):
            module = detector.bind(params, model_state)
            parts, features, sample = module.region_losses(batch, jax.random.key(0))
            objects = mask_sample(sample)
            logits = module.mask_outputs(features, objects.boxes, objects.labels)
            size = logits.shape[-1]
            pooled = roi_align(
                [bitmaps],
                objects.boxes,
                strides=(1,),
                output_size=size,
                sampling_ratio=0,
            )  # (B, S, M, M, ROWS)
            own = jax.nn.one_hot(objects.rows, ROWS)
            theirs = jnp.einsum("bsijr,bsr->bsij", pooled, own)
            surprise = mask_surprise(logits, theirs, objects.is_object)
            parts |= {"mask": surprise / objects.is_object.sum()}
            # Both, because theirs read a bitmap half a pixel aside.
            targets = [
                sampled_mask_targets(
                    objects._replace(boxes=objects.boxes + shift), batch, size
                )
                for shift in (0.0, 0.5)
            ]
            return sum(parts.values()), (parts, theirs, targets, objects.is_object)

        (_, found), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        module = detector.bind(params, model_state)
        detections, features = module.detections(batch)
        return {
            "found": found,
            "norms": jax.tree.map(jnp.linalg.norm, gradients),
            "detections": detections,
            "mask_logits": module.mask_outputs(
                features, detections.boxes, detections.classes
            ),
        }

    return jax.device_get(run(params, model_state, make_batch(), make_canvases()))


@pytest.fixture(scope="module")
def oracle():
    with np.load(ORACLE) as stored:
        return dict(stored)


@pytest.mark.parametrize(
    "part", ["objectness", "rpn_box", "classification", "box", "mask"]
)
def test_losses_are_torchvisions(ours, oracle, part):
    parts, *_ = ours["found"]
    np.testing.assert_allclose(parts[part], oracle[part], rtol=2e-5)


def test_our_mask_targets_are_theirs_but_for_half_a_pixel(ours):
    """Random cells of three to twelve pixels; what is left is their blur."""
    _, theirs, targets, is_object = ours["found"]
    apart, shifted = (np.abs(theirs - own)[is_object].mean() for own in targets)
    assert apart < 0.1 and shifted < 0.6 * apart


def test_every_gradient_is_as_long_as_torchvisions(ours, oracle):
    expected = expected_norms(oracle, mask_rcnn_names(), MASK_RCNN_RULES)
    assert_norms_agree(by_path(ours["norms"]), expected, median=2e-5)


def test_detections_and_their_masks_are_torchvisions(ours, oracle):
    found = ours["detections"]
    assert found.valid.sum(axis=1).tolist() == oracle["counts"].tolist()
    every = int(oracle["every"])
    for image, end in enumerate(np.cumsum(oracle["counts"])):
        stored = oracle["mask_logits"][image]
        rows = slice(end - oracle["counts"][image], end)
        for logits, box, label in zip(
            stored, oracle["boxes"][rows], oracle["labels"][rows], strict=False
        ):
            apart = np.abs(found.boxes[image] - box).max(axis=-1)
            same = (apart < 5e-3) & (found.classes[image] == label)
            assert same.sum() == 1
            mine = ours["mask_logits"][image, same.argmax(), ::every, ::every]
            assert_close(mine, logits, 5e-4)
