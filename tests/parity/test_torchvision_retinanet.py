"""With the same weights our RetinaNet ResNet-50 FPN computes what torchvision's does.

`make_retinanet_oracle.py` says how the expected values were made. Tolerances are some
ten times the differences seen, which are those of float32, and far below what another
formula, rounding or order would make.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparisons import (
    assert_close,
    assert_norms_agree,
    assert_same_detections,
    expected_norms,
    norms_by_path,
)
from rcnn_cases import COMPILER_OPTIONS
from seeded_weights import (
    CANVAS,
    MAX_DETECTIONS,
    NUM_CLASSES,
    OBJECTS,
    PRE_NMS_TOP_K,
    make_images,
    make_tensor,
)

from agvm_jax.structures import Batch
from configs import base
from models.build import build_detector
from models.weights.placing import from_torchvision, our_path
from models.weights.rules import RETINANET_RULES

# A whole detector, compiled with its gradient.
pytestmark = pytest.mark.slow

ORACLE = Path(__file__).with_name("retinanet_oracle.npz")


def torchvision_names() -> dict[str, tuple[int, ...]]:
    """Names and shapes of `retinanet_resnet50_fpn`'s state dict, written by hand."""
    shapes = {}

    def conv(name, inputs, outputs, size, bias):
        shapes[f"{name}.weight"] = (outputs, inputs, size, size)
        if bias:
            shapes[f"{name}.bias"] = (outputs,)

    def norm(name, channels):
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{leaf}"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = ()

    body = "backbone.body"
    conv(f"{body}.conv1", 3, 64, 7, False)
    norm(f"{body}.bn1", 64)
    inputs = 64
    for stage, count in enumerate((3, 4, 6, 3), start=1):
        width = 32 * 2**stage
        for block in range(count):
            name = f"{body}.layer{stage}.{block}"
            conv(f"{name}.conv1", inputs, width, 1, False)
            conv(f"{name}.conv2", width, width, 3, False)
            conv(f"{name}.conv3", width, 4 * width, 1, False)
            norm(f"{name}.bn1", width)
            norm(f"{name}.bn2", width)
            norm(f"{name}.bn3", 4 * width)
            if block == 0:
                conv(f"{name}.downsample.0", inputs, 4 * width, 1, False)
                norm(f"{name}.downsample.1", 4 * width)
            inputs = 4 * width
    for level, channels in enumerate((512, 1024, 2048)):
        conv(f"backbone.fpn.inner_blocks.{level}.0", channels, 256, 1, True)
        conv(f"backbone.fpn.layer_blocks.{level}.0", 256, 256, 3, True)
    for level in ("p6", "p7"):
        conv(f"backbone.fpn.extra_blocks.{level}", 256, 256, 3, True)
    for tower in ("classification", "regression"):
        for index in range(4):
            conv(f"head.{tower}_head.conv.{index}.0", 256, 256, 3, True)
    conv("head.classification_head.cls_logits", 256, 9 * NUM_CLASSES, 3, True)
    conv("head.regression_head.bbox_reg", 256, 9 * 4, 3, True)
    return shapes


def make_batch() -> Batch:
    count, rows = len(OBJECTS), 5  # more rows than any image has objects
    image = np.zeros((count, *CANVAS, 3), np.uint8)
    boxes = np.zeros((count, rows, 4), np.float32)
    classes = np.zeros((count, rows), np.int32)
    valid = np.zeros((count, rows), bool)
    size = np.zeros((count, 2), np.int32)
    for index, (one, objects) in enumerate(zip(make_images(), OBJECTS, strict=True)):
        size[index] = one.shape[:2]
        image[index, : size[index, 0], : size[index, 1]] = one
        for row, (*box, label) in enumerate(objects):
            boxes[index, row], classes[index, row] = box, label
            valid[index, row] = True
    return Batch(
        image=jnp.asarray(image),
        image_size=jnp.asarray(size),
        image_id=jnp.arange(count, dtype=jnp.int32),
        boxes=jnp.asarray(boxes),
        classes=jnp.asarray(classes),
        valid=jnp.asarray(valid),
        crowd=jnp.zeros((count, rows), bool),
    )


@pytest.fixture(scope="module")
def detector():
    config = base.get_config().model
    config.update(
        backbone="resnet50",
        norm="frozen",
        p6_from="p5",
        retina_head={"pre_nms_top_k": PRE_NMS_TOP_K, "max_detections": MAX_DETECTIONS},
    )
    return build_detector(config, num_classes=NUM_CLASSES, image_size=CANVAS)


@pytest.fixture(scope="module")
def shapes(detector):
    return jax.eval_shape(detector.init, jax.random.key(0))


@pytest.fixture(scope="module")
def tensors():
    return {
        name: make_tensor(name, shape) for name, shape in torchvision_names().items()
    }


@pytest.fixture(scope="module")
def ours(detector, shapes, tensors):
    """Head outputs, losses, gradients and detections, from one compiled program."""
    params, model_state = from_torchvision(tensors, *shapes)

    @functools.partial(jax.jit, compiler_options=COMPILER_OPTIONS)
    def run(params, model_state, batch):
        (_, (_, parts)), gradients = jax.value_and_grad(detector.loss, has_aux=True)(
            params, model_state, batch, jax.random.key(0)
        )
        module = detector.bind(params, model_state)
        features = module.features(batch, train=False)
        logits, deltas, _ = module.head.outputs(features)

        def rows(maps, width):
            maps = [level.reshape(len(level), -1, width) for level in maps]
            return jnp.concatenate(maps, axis=1)

        return (
            rows(logits, NUM_CLASSES),
            rows(deltas, 4),
            parts,
            gradients,
            module.predict(batch),
        )

    return jax.device_get(run(params, model_state, make_batch()))


@pytest.fixture(scope="module")
def oracle():
    with np.load(ORACLE) as stored:
        return dict(stored)


def test_class_logits_and_box_deltas_are_torchvisions(ours, oracle):
    logits, deltas = ours[:2]
    every = int(oracle["every"])
    assert_close(logits[:, ::every], oracle["logits"], 5e-5)
    assert_close(deltas[:, ::every], oracle["deltas"], 5e-5)


def test_losses_are_torchvisions(ours, oracle):
    parts = ours[2]
    for name in ("classification", "box"):
        np.testing.assert_allclose(parts[name], oracle[name], rtol=3e-6)


def test_every_gradient_is_as_long_as_torchvisions(ours, oracle):
    expected = expected_norms(oracle, torchvision_names(), RETINANET_RULES)
    assert_norms_agree(norms_by_path(ours[3]), expected, median=5e-6)


def test_detections_are_torchvisions(ours, oracle):
    """Two whose scores agree to 5e-6 may stand in either order."""
    assert_same_detections(ours[4], oracle, pixels=2e-3, score=5e-5)


def test_the_oracle_shows_every_limit_at_work(oracle):
    """Threshold, list length and image border all decide about something."""
    assert oracle["counts"].max() == MAX_DETECTIONS > oracle["counts"].min()
    assert 0.05 < oracle["scores"].min() < 0.055
    first = oracle["boxes"][: oracle["counts"][0]]
    assert (first == 0).any() and (first[:, 2] == CANVAS[1]).any()


def test_a_tensor_too_many_too_few_or_of_another_shape_is_named(shapes, tensors):
    wrong = dict(tensors)
    kernel = wrong.pop("backbone.body.conv1.weight")
    wrong["backbone.body.conv9.weight"] = kernel
    wrong["head.regression_head.bbox_reg.bias"] = np.zeros(8, np.float32)
    with pytest.raises(ValueError) as error:
        from_torchvision(wrong, *shapes)
    message = str(error.value)
    assert "(3 differences)" in message
    assert "backbone.body.conv9.weight (7, 7, 3, 64) has no place" in message
    assert "nothing sets backbone/conv1/kernel (7, 7, 3, 64)" in message
    assert "bbox_reg.bias is (8,) in our layout, head/box_deltas/bias is (36,)" in (
        message
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("backbone.fpn.inner_blocks.1.weight", "backbone.fpn.inner_blocks.1.0.weight"),
        ("head.regression_head.conv.6.bias", "head.regression_head.conv.3.0.bias"),
        (
            "head.classification_head.conv.2.weight",
            "head.classification_head.conv.1.0.weight",
        ),
    ],
)
def test_names_from_before_version_013_find_the_same_places(old, new):
    assert our_path(old, 4) == our_path(new, 4) is not None
