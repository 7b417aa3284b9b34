"""What the parity tests of Faster and Mask R-CNN share: inputs, outputs, checks."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from comparisons import assert_close, assert_same_detections
from seeded_weights import (
    ANCHORS_EVERY,
    NUM_CLASSES,
    RCNN_MAX_DETECTIONS,
    RCNN_POST_NMS_TOP_K,
    RCNN_PRE_NMS_TOP_K,
    RCNN_SAMPLES,
    ROIS,
    make_images,
    pick,
)

from agvm_jax.structures import Batch
from models.build import build_detector
from models.functional import Detector
from models.ops.images import normalize_images

ROWS = 5  # of a batch; more than any image has objects
# In the order in which the oracle has them.
LOSSES = ("objectness", "rpn_box", "classification", "box", "mask")
# A program that runs once is sooner done when LLVM leaves it as it is: compiling the
# gradient of a ResNet-50 takes a quarter of the time. What XLA makes of it is the same.
COMPILER_OPTIONS = {"xla_backend_optimization_level": 0}


def build(config, scene) -> Detector:
    """The config's detector in float32, with the oracle's limits."""
    model = config.get_config().model
    model.update(norm="frozen", dtype="float32")
    model.rpn.update(
        pre_nms_top_k=(RCNN_PRE_NMS_TOP_K,) * 2,
        post_nms_top_k=(RCNN_POST_NMS_TOP_K,) * 2,
        samples=RCNN_SAMPLES,
    )
    model.box_head.update(
        samples=4 * (RCNN_POST_NMS_TOP_K + ROWS),  # a quarter may be objects
        max_detections=RCNN_MAX_DETECTIONS,
    )
    return build_detector(model, num_classes=NUM_CLASSES, image_size=scene.canvas)


def make_batch(scene, masks_of=None) -> Batch:
    """The images and objects of a scene, and (n, M, M) masks of each image's."""
    count = len(scene.objects)
    image = np.zeros((count, *scene.canvas, 3), np.uint8)
    boxes = np.zeros((count, ROWS, 4), np.float32)
    classes = np.zeros((count, ROWS), np.int32)
    valid = np.zeros((count, ROWS), bool)
    for index, one in enumerate(make_images(scene.image_sizes)):
        height, width = one.shape[:2]
        image[index, :height, :width] = one
        for row, (*box, label) in enumerate(scene.objects[index]):
            boxes[index, row], classes[index, row] = box, label
            valid[index, row] = True
    masks = None
    if masks_of is not None:
        masks = np.zeros((count, ROWS, *masks_of[0].shape[1:]), np.uint8)
        for index, own in enumerate(masks_of):
            masks[index, : len(own)] = own
        masks = jnp.asarray(masks)
    return Batch(
        image=jnp.asarray(image),
        image_size=jnp.asarray(scene.image_sizes, jnp.int32),
        image_id=jnp.arange(count, dtype=jnp.int32),
        boxes=jnp.asarray(boxes),
        classes=jnp.asarray(classes),
        valid=jnp.asarray(valid),
        crowd=jnp.zeros((count, ROWS), bool),
        masks=masks,
    )


def outputs_on_the_way(module, batch) -> dict:
    """What each part of a detector gives, up to the detections."""
    images = normalize_images(
        batch.image, batch.image_size, module.image_mean, module.image_std
    )
    stages = module.backbone(images, train=False)
    features = module.features(batch, train=False)
    outputs = module.rpn.outputs(features)
    proposals, valid = module.rpn.propose(features)
    head = module.box_head
    logits, deltas = head(features.pool(proposals, head.roi_size))
    count = len(batch.image)
    return {
        "backbone": list(stages.values()),
        "fpn": features.levels,
        "rpn_logits": jnp.concatenate(
            [level.reshape(count, -1) for level in outputs.logits], axis=1
        ),
        "rpn_deltas": jnp.concatenate(
            [level.reshape(count, -1, 4) for level in outputs.deltas], axis=1
        ),
        "proposals": proposals,
        "valid": valid,
        "class_logits": logits,
        "box_deltas": deltas,
    }


def load_oracle(name, scene) -> dict:
    """What the oracle `name` holds of a scene, and what it holds of all."""
    with np.load(Path(__file__).with_name(f"{name}_oracle.npz")) as stored:
        return {
            key.removeprefix(f"{scene}/"): stored[key]
            for key in stored
            if key.startswith(f"{scene}/") or "/" not in key
        }


def assert_backbone_and_fpn_agree(ours, oracle):
    for name in ("backbone", "fpn"):
        for level, expected in zip(ours[name], oracle[name], strict=True):
            assert_close(pick(level), expected, 5e-5)


def assert_rpn_agrees(ours, oracle):
    for name in ("rpn_logits", "rpn_deltas"):
        assert_close(ours[name][:, ::ANCHORS_EVERY], oracle[name], 5e-5)


def assert_proposals_agree(ours, oracle):
    """The same ones in the same order, within 2e-3 pixels."""
    counts = oracle["proposal_counts"]
    assert ours["valid"].sum(axis=1).tolist() == counts.tolist()
    found = [ours["proposals"][image, :count] for image, count in enumerate(counts)]
    np.testing.assert_allclose(np.concatenate(found), oracle["proposals"], atol=2e-3)


def assert_box_head_agrees(ours, oracle):
    # Theirs have the background first, and a box for it.
    expected = np.roll(oracle["class_logits"], -1, axis=-1)
    assert_close(ours["class_logits"][:, :ROIS], expected, 2e-4)
    expected = oracle["box_deltas"].reshape(-1, ROIS, NUM_CLASSES + 1, 4)[:, :, 1:]
    assert_close(ours["box_deltas"][:, :ROIS], expected, 2e-4)


def assert_detections_agree(ours, oracle):
    """Two whose scores agree to 5e-5 may stand in either order."""
    assert_same_detections(ours["detections"], oracle, pixels=5e-3, score=2e-4)


# One after the other: where the first fails, the next ones will.
FORWARD_CHECKS = {
    "backbone_and_fpn": assert_backbone_and_fpn_agree,
    "rpn": assert_rpn_agrees,
    "proposals": assert_proposals_agree,
    "box_head": assert_box_head_agrees,
    "detections": assert_detections_agree,
}
