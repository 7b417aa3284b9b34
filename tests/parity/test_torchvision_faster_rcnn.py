"""With the same weights our Faster R-CNN (ResNet-50 FPN) is torchvision's.

`make_faster_rcnn_oracle.py` says how the expected values were made. Tolerances are
some ten times the rounding of float32. Both sides sample everything there is, so the
losses are those of the same proposals.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparisons import assert_close, assert_norms_agree, by_path, expected_norms
from seeded_weights import (
    CANVAS,
    NUM_CLASSES,
    RCNN_MAX_DETECTIONS,
    RCNN_POST_NMS_TOP_K,
    RCNN_PRE_NMS_TOP_K,
    RCNN_SAMPLES,
    make_rcnn_tensor,
)
from test_torchvision_retinanet import make_batch, torchvision_names

from configs import faster_rcnn
from models.build import build_detector
from models.pretrained import FASTER_RCNN_RULES, from_torchvision, our_path

ORACLE = Path(__file__).with_name("faster_rcnn_oracle.npz")


def faster_rcnn_names() -> dict[str, tuple[int, ...]]:
    """Names and shapes of `fasterrcnn_resnet50_fpn`'s state dict, written by hand."""
    shapes = {
        name: shape
        for name, shape in torchvision_names().items()
        if name.startswith("backbone.body")
    }

    def layer(name, *shape):
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = shape[:1]

    for level in range(4):
        layer(f"backbone.fpn.inner_blocks.{level}.0", 256, 256 * 2**level, 1, 1)
        layer(f"backbone.fpn.layer_blocks.{level}.0", 256, 256, 3, 3)
    layer("rpn.head.conv.0.0", 256, 256, 3, 3)
    layer("rpn.head.cls_logits", 3, 256, 1, 1)
    layer("rpn.head.bbox_pred", 12, 256, 1, 1)
    layer("roi_heads.box_head.fc6", 1024, 256 * 7 * 7)
    layer("roi_heads.box_head.fc7", 1024, 1024)
    layer("roi_heads.box_predictor.cls_score", NUM_CLASSES + 1, 1024)
    layer("roi_heads.box_predictor.bbox_pred", 4 * (NUM_CLASSES + 1), 1024)
    return shapes


@pytest.fixture(scope="module")
def detector():
    config = faster_rcnn.get_config().model
    config.update(
        norm="frozen",
        dtype="float32",
        rpn_pre_nms_top_k=(RCNN_PRE_NMS_TOP_K,) * 2,
        rpn_post_nms_top_k=(RCNN_POST_NMS_TOP_K,) * 2,
        rpn_samples=RCNN_SAMPLES,
        roi_samples=4 * (RCNN_POST_NMS_TOP_K + 5),  # a quarter may be objects
        max_detections=RCNN_MAX_DETECTIONS,
    )
    return build_detector(config, num_classes=NUM_CLASSES, image_size=CANVAS)


@pytest.fixture(scope="module")
def shapes(detector):
    return jax.eval_shape(detector.init, jax.random.key(0))


@pytest.fixture(scope="module")
def tensors():
    return {
        name: make_rcnn_tensor(name, shape)
        for name, shape in faster_rcnn_names().items()
    }


@pytest.fixture(scope="module")
def ours(detector, shapes, tensors):
    """What the oracle holds, from one compiled program."""
    params, model_state = from_torchvision(tensors, *shapes, FASTER_RCNN_RULES)

    @jax.jit
    def run(params, model_state, batch):
        (_, (_, parts)), gradients = jax.value_and_grad(detector.loss, has_aux=True)(
            params, model_state, batch, jax.random.key(0)
        )
        module = detector.bind(params, model_state)
        features = module.features(batch, train=False)
        outputs = module.rpn_outputs(features, batch)
        proposals, valid = module.proposals(outputs, batch, train=False)
        logits, deltas = module.box_outputs(features, proposals)
        return {
            "rpn_logits": jnp.concatenate(outputs[0], axis=1),
            "rpn_deltas": jnp.concatenate(outputs[1], axis=1),
            "proposals": proposals,
            "valid": valid,
            "class_logits": logits,
            "box_deltas": deltas,
            "parts": parts,
            "norms": jax.tree.map(jnp.linalg.norm, gradients),
            "detections": module.predict(batch),
        }

    return jax.device_get(run(params, model_state, make_batch()))


@pytest.fixture(scope="module")
def oracle():
    with np.load(ORACLE) as stored:
        return dict(stored)


def test_the_rpns_outputs_are_torchvisions(ours, oracle):
    every = int(oracle["every"])
    assert_close(ours["rpn_logits"][:, ::every], oracle["rpn_logits"], 5e-5)
    assert_close(ours["rpn_deltas"][:, ::every], oracle["rpn_deltas"], 5e-5)


def test_the_proposals_are_torchvisions_in_their_order(ours, oracle):
    counts = oracle["proposal_counts"]
    assert ours["valid"].sum(axis=1).tolist() == counts.tolist()
    found = [ours["proposals"][image, :count] for image, count in enumerate(counts)]
    np.testing.assert_allclose(np.concatenate(found), oracle["proposals"], atol=2e-3)


def test_class_logits_and_box_deltas_of_proposals_are_torchvisions(ours, oracle):
    rois = int(oracle["rois"])
    # Theirs have the background first, and a box for it.
    expected = np.roll(oracle["class_logits"], -1, axis=-1)
    assert_close(ours["class_logits"][:, :rois], expected, 2e-4)
    expected = oracle["box_deltas"].reshape(-1, rois, NUM_CLASSES + 1, 4)[:, :, 1:]
    assert_close(ours["box_deltas"][:, :rois], expected, 2e-4)


@pytest.mark.parametrize("part", ["objectness", "rpn_box", "classification", "box"])
def test_losses_are_torchvisions(ours, oracle, part):
    np.testing.assert_allclose(ours["parts"][part], oracle[part], rtol=2e-5)


def test_every_gradient_is_as_long_as_torchvisions(ours, oracle):
    expected = expected_norms(oracle, faster_rcnn_names(), FASTER_RCNN_RULES)
    assert_norms_agree(by_path(ours["norms"]), expected, median=2e-5)


def test_detections_are_torchvisions(ours, oracle):
    """The same ones; two whose scores agree to 5e-5 may stand in either order."""
    found = ours["detections"]
    assert found.valid.sum(axis=1).tolist() == oracle["counts"].tolist()
    for image, end in enumerate(np.cumsum(oracle["counts"])):
        count = oracle["counts"][image]
        rows = slice(end - count, end)
        boxes, scores = oracle["boxes"][rows], oracle["scores"][rows]
        apart = np.abs(found.boxes[image, :count, None] - boxes).max(axis=-1)
        ratio = found.scores[image, :count, None] / scores
        same = (apart < 5e-3) & (np.abs(ratio - 1.0) < 2e-4)
        same &= found.classes[image, :count, None] == oracle["labels"][rows]
        assert (same.sum(axis=0) == 1).all() and (same.sum(axis=1) == 1).all()
        assert np.abs(same.argmax(axis=1) - np.arange(count)).max() <= 1


def test_the_oracle_shows_limits_at_work(oracle):
    assert oracle["proposal_counts"].max() == RCNN_POST_NMS_TOP_K
    assert oracle["counts"].min() > 10
    assert 0.05 < oracle["scores"].min() < 0.1


def test_weights_with_something_missing_or_misshaped_are_refused(shapes, tensors):
    wrong = dict(tensors)
    del wrong["rpn.head.conv.0.0.weight"]
    wrong["roi_heads.box_head.fc6.weight"] = np.zeros((1024, 9), np.float32)
    with pytest.raises(ValueError) as error:
        from_torchvision(wrong, *shapes, FASTER_RCNN_RULES)
    message = str(error.value)
    assert "(2 differences)" in message
    assert "nothing sets rpn/conv/kernel (3, 3, 256, 256)" in message
    assert "fc6.weight is (9, 1024) in our layout" in message


def test_names_from_before_version_013_find_the_same_places():
    old = our_path("rpn.head.conv.weight", 4, FASTER_RCNN_RULES)
    assert old == our_path("rpn.head.conv.0.0.weight", 4, FASTER_RCNN_RULES)
    assert old == "rpn/conv/kernel"
