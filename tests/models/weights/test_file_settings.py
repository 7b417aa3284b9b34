"""Settings that are read off the shapes of weights."""

import doctest

import pytest

from models.weights import file_settings
from models.weights.file_settings import differences, settings_of


def blocks(count, *names):
    return {f"backbone/layer3/{i}/{name}": (1,) for i in range(count) for name in names}


@pytest.mark.parametrize(
    ("shapes", "name"),
    [
        (blocks(2, "conv1/kernel", "conv2/kernel"), "resnet18"),
        (blocks(6, "conv1/kernel", "conv2/kernel"), "resnet34"),
        (blocks(6, "conv2/kernel", "conv3/kernel"), "resnet50"),
    ],
)
def test_a_resnet_is_known_by_its_blocks(shapes, name):
    shapes = {"backbone/conv1/kernel": (7, 7, 3, 32)} | shapes
    assert settings_of(shapes) == {"backbone": name, "width": 0.5}


@pytest.mark.parametrize(
    ("count", "heads", "name"),
    [(6, 3, "swin_t"), (18, 3, "swin_s"), (18, 4, "swin_b"), (18, 6, "swin_l")],
)
def test_a_swin_is_known_by_its_blocks_and_heads(count, heads, name):
    shapes = {"backbone/layer1/0/attn/bias_table": (169, heads)}
    assert settings_of(shapes | blocks(count, "fc1/kernel")) == {"backbone": name}


@pytest.mark.parametrize(
    ("paths", "name"),
    [
        (["head/class_logits/kernel"], "retinanet"),
        (["rpn/conv/kernel", "box_head/fc6/kernel"], "faster_rcnn"),
        (["mask_head/logits/kernel", "rpn/conv/kernel"], "mask_rcnn"),
    ],
)
def test_a_detector_is_known_by_its_heads(paths, name):
    assert settings_of(dict.fromkeys(paths, ())) == {"detector": name}


def test_only_what_differs_and_both_have_is_named():
    file = {
        "head/class_tower/0/kernel": (),
        "head/class_tower/0/bias": (),
        "head/class_tower/1/kernel": (),
        "fpn/output/0/kernel": (3, 3, 64, 64),
        "fpn/p6/kernel": (3, 3, 512, 64),
    }
    model = {
        "fpn/output/0/kernel": (3, 3, 256, 256),
        "fpn/p6/kernel": (3, 3, 512, 256),
    }
    assert differences(file, file) == []
    assert differences(file, model) == ["--config.model.fpn_channels=64"]


def test_examples():
    assert doctest.testmod(file_settings).failed == 0
