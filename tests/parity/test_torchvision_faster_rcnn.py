"""With the same weights our Faster R-CNN (ResNet-50 FPN) is torchvision's.

At two image sizes. `make_rcnn_oracles.py` says how the expected values were made.
Tolerances are some ten times the rounding of float32. Both sides sample everything
there is, so the losses are those of the same proposals.
"""

import functools

import jax
import numpy as np
import pytest
from comparisons import assert_norms_agree, expected_norms, norms_by_path
from rcnn_cases import (
    COMPILER_OPTIONS,
    FORWARD_CHECKS,
    LOSSES,
    build,
    load_oracle,
    make_batch,
    outputs_on_the_way,
)
from seeded_weights import (
    FASTER_RCNN_SCENES,
    NUM_CLASSES,
    RCNN_POST_NMS_TOP_K,
    make_rcnn_tensor,
)
from test_torchvision_retinanet import torchvision_names

from configs import faster_rcnn
from models.weights.placing import from_torchvision, our_path
from models.weights.rules import FASTER_RCNN_RULES

# Whole detectors, compiled at two sizes: minutes.
pytestmark = pytest.mark.slow


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
def shapes():
    detector = build(faster_rcnn, FASTER_RCNN_SCENES["wide"])
    return jax.eval_shape(detector.init, jax.random.key(0))


@pytest.fixture(scope="module")
def tensors():
    return {
        name: make_rcnn_tensor(name, shape)
        for name, shape in faster_rcnn_names().items()
    }


@pytest.fixture(scope="module", params=FASTER_RCNN_SCENES)
def scene(request):
    return request.param


@pytest.fixture(scope="module")
def ours(scene, shapes, tensors):
    """What the oracle holds, from one compiled program."""
    detector = build(faster_rcnn, FASTER_RCNN_SCENES[scene])
    params, model_state = from_torchvision(tensors, *shapes, FASTER_RCNN_RULES)

    @functools.partial(jax.jit, compiler_options=COMPILER_OPTIONS)
    def run(params, model_state, batch):
        (_, (_, parts)), gradients = jax.value_and_grad(detector.loss, has_aux=True)(
            params, model_state, batch, jax.random.key(0)
        )
        module = detector.bind(params, model_state)
        return outputs_on_the_way(module, batch) | {
            "parts": parts,
            "gradients": gradients,
            "detections": module.predict(batch),
        }

    batch = make_batch(FASTER_RCNN_SCENES[scene])
    return jax.device_get(run(params, model_state, batch))


@pytest.fixture(scope="module")
def oracle(scene):
    return load_oracle("faster_rcnn", scene)


@pytest.mark.parametrize("part", FORWARD_CHECKS)
def test_outputs_are_torchvisions(ours, oracle, part):
    FORWARD_CHECKS[part](ours, oracle)


def test_losses_are_torchvisions(ours, oracle):
    found = [ours["parts"][name] for name in LOSSES[:-1]]
    np.testing.assert_allclose(found, oracle["losses"], rtol=2e-5)


def test_every_gradient_is_as_long_as_torchvisions(ours, oracle):
    expected = expected_norms(oracle, faster_rcnn_names(), FASTER_RCNN_RULES)
    assert_norms_agree(norms_by_path(ours["gradients"]), expected, median=2e-5)


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
