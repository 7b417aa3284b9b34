"""Files of weights that do not fit a detector are answered with what has to be set."""

import numpy as np
import pytest
from small_weights import (
    CHANNELS,
    CLASSES,
    WIDTH,
    make_detector,
    shapes_of,
    whole_detector,
)
from torchvision_names import resnet18, retinanet_resnet18, swin_t


def test_missing_extra_and_misshaped_tensors_are_listed_in_one_message(load, resnet):
    tensors = resnet18(WIDTH)
    tensors["layer1.0.conv9.weight"] = tensors.pop("layer1.0.conv1.weight")
    tensors["extra"] = np.zeros(2, np.float32)
    tensors["bn1.bias"] = np.zeros(5, np.float32)
    with pytest.raises(ValueError) as error:
        load(tensors, "backbone", shapes_of(resnet))
    message = str(error.value)
    assert "weights.npz" in message and "(4 differences)" in message
    assert "layer1.0.conv9.weight (3, 3, 4, 4) has no place in the model" in message
    assert "extra (2,) has no place in the model" in message
    assert "bn1.bias is (5,) in our layout, backbone/bn1/bias is (4,)" in message
    assert "nothing sets backbone/layer1/0/conv1/kernel (3, 3, 4, 4)" in message


def test_weights_of_another_depth_or_kind_do_not_fit(load, resnet):
    with pytest.raises(ValueError, match=r"nothing sets backbone/conv1/kernel"):
        load(swin_t(WIDTH), "backbone", shapes_of(resnet))
    deeper = make_detector("resnet34")
    with pytest.raises(ValueError, match="nothing sets backbone/layer1/2/conv1/kernel"):
        load(resnet18(WIDTH), "backbone", shapes_of(deeper))


def with_p6_from_p5(tensors):
    """As in `retinanet_resnet50_fpn`: P6's inputs are the pyramid's channels."""
    kernel = np.zeros((CHANNELS, CHANNELS, 3, 3), np.float32)
    return tensors | {"backbone.fpn.extra_blocks.p6.weight": kernel}


def test_a_p6_from_p5_is_answered_with_the_setting_and_taken_with_it(load, resnet):
    tensors = with_p6_from_p5(whole_detector())
    for what in ("all", "all_but_heads"):
        with pytest.raises(ValueError, match=r"\(1 differences\)") as error:
            load(tensors, what, shapes_of(resnet))
        assert str(error.value).endswith("use --config.model.p6_from=p5")
    load(tensors, "backbone", shapes_of(resnet))  # does not need it
    weights = load(tensors, "all", shapes_of(make_detector(p6_from="p5")))
    assert weights.report == "weights.npz: 124 of 124 arrays"


def test_a_file_of_another_network_is_answered_with_its_settings(load, resnet):
    tensors = with_p6_from_p5(retinanet_resnet18(1 / 8, CHANNELS, 2, CLASSES))
    with pytest.raises(ValueError) as error:
        load(tensors, "all", shapes_of(resnet))
    assert str(error.value).endswith(
        "use --config.model.width=0.125 --config.model.p6_from=p5"
        " --config.model.retina_head.num_convs=2"
    )
    with pytest.raises(ValueError) as error:
        load(tensors, "backbone", shapes_of(resnet))
    assert str(error.value).endswith("use --config.model.width=0.125")
    with pytest.raises(ValueError) as error:
        load(tensors, "backbone", shapes_of(make_detector("resnet34")))
    assert str(error.value).endswith(
        "use --config.model.backbone=resnet18 --config.model.width=0.125"
    )


def test_a_backbone_alone_is_no_detector(load, resnet):
    for what in ("all", "all_but_heads"):
        with pytest.raises(ValueError, match="init_what=backbone"):
            load(resnet18(WIDTH), what, shapes_of(resnet))


def test_another_number_of_classes_is_answered_with_the_remedy(load, resnet):
    with pytest.raises(ValueError, match=r"\(2 differences\)") as error:
        load(whole_detector(classes=5), "all", shapes_of(resnet))
    assert str(error.value).endswith("--config.train.init_what=all_but_heads")


def test_unknown_names_and_choices_are_answered(load, resnet):
    with pytest.raises(ValueError, match=r"names?.*torchvision.*stem\.kernel"):
        load({"stem.kernel": np.zeros(3)}, "backbone", shapes_of(resnet))
    with pytest.raises(ValueError, match=r"'head'.*all.*all_but_heads.*backbone"):
        load(resnet18(WIDTH), "head", shapes_of(resnet))
