"""From a config to a detector: names, errors, and one step of the smallest network."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agvm_jax.structures import Batch
from configs import base
from models.build import build_detector

IMAGE_SIZE = (
    40,
    56,
)  # odd maps on the coarse levels: 5 x 7, 3 x 4, 2 x 2, 1 x 1, 1 x 1


def make_config(**changes):
    config = base.get_config().model
    config.update(width=0.125, fpn_channels=8)
    config.retina_head.update(num_convs=1, pre_nms_top_k=20, max_detections=10)
    config.update_from_flattened_dict(changes)
    return config


def make_batch():
    height, width = IMAGE_SIZE
    image = np.random.default_rng(0).integers(0, 255, (2, height, width, 3), np.uint8)
    boxes = np.array([[[4, 4, 30, 30], [0, 0, 0, 0]]] * 2, np.float32)
    return Batch(
        image=image,
        image_size=np.array([[40, 56], [30, 40]], np.int32),
        image_id=np.arange(2, dtype=np.int32),
        boxes=boxes,
        classes=np.ones((2, 2), np.int32),
        valid=np.array([[True, False]] * 2),
        crowd=np.zeros((2, 2), bool),
    )


@pytest.mark.slow  # a minute of compilation
def test_a_step_in_bfloat16_on_odd_maps_gives_finite_float32_gradients():
    detector = build_detector(
        make_config(dtype="bfloat16"), num_classes=3, image_size=IMAGE_SIZE
    )
    params, model_state = detector.init(jax.random.key(0))
    assert set(params) == {"backbone", "fpn", "head"}
    gradient, (state, parts) = jax.jit(jax.grad(detector.loss, has_aux=True))(
        params, model_state, make_batch(), jax.random.key(1)
    )
    assert set(parts) == {"classification", "box"}
    chex.assert_trees_all_equal_shapes_and_dtypes(gradient, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, model_state)
    chex.assert_tree_all_finite((gradient, state, parts))
    for module, tree in gradient.items():
        assert any(jnp.any(leaf != 0) for leaf in jax.tree.leaves(tree)), module
    chex.assert_type(jax.tree.leaves((params, model_state, parts)), jnp.float32)


@pytest.mark.slow  # a minute of compilation
def test_a_step_of_a_swin_in_bfloat16_reaches_every_module_and_uses_its_key():
    detector = build_detector(
        make_config(backbone="swin_t", dtype="bfloat16", drop_path=0.5),
        num_classes=3,
        image_size=IMAGE_SIZE,
    )
    params, model_state = detector.init(jax.random.key(0))
    assert set(params) == {"backbone", "fpn", "head"} and not model_state
    step = jax.jit(jax.value_and_grad(detector.loss, has_aux=True))
    (loss, _), gradient = step(params, model_state, make_batch(), jax.random.key(1))
    (other, _), _ = step(params, model_state, make_batch(), jax.random.key(2))
    assert loss.dtype == jnp.float32 and loss != other
    chex.assert_trees_all_equal_shapes_and_dtypes(gradient, params)
    chex.assert_tree_all_finite((gradient, loss, other))
    for module, tree in gradient.items():
        assert any(jnp.any(leaf != 0) for leaf in jax.tree.leaves(tree)), module


@pytest.mark.parametrize(
    "backbone",
    ["resnet18", "resnet34", "resnet50", "swin_t", "swin_s", "swin_b", "swin_l"],
)
def test_predictions_have_the_configured_shape(backbone):
    detector = build_detector(
        make_config(backbone=backbone), num_classes=3, image_size=IMAGE_SIZE
    )
    params, model_state = jax.eval_shape(detector.init, jax.random.key(0))
    found = jax.eval_shape(detector.predict, params, model_state, make_batch())
    chex.assert_shape(found.boxes, (2, 10, 4))
    chex.assert_shape((found.scores, found.classes, found.valid), (2, 10))


def test_the_number_of_parameters_is_torchvisions():
    config = base.get_config().model
    config.update(backbone="resnet50", p6_from="p5")
    detector = build_detector(config, num_classes=91, image_size=(800, 800))
    params, _ = jax.eval_shape(detector.init, jax.random.key(0))
    # torchvision's retinanet_resnet50_fpn with trainable BatchNorm.
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 34_068_119


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"detector": "yolo"}, r"model.detector='yolo'.*retinanet"),
        ({"backbone": "vgg"}, r"model.backbone='vgg'.*resnet18.*resnet50"),
        ({"norm": "batch"}, r"norm mode 'batch'.*frozen.*local.*synced"),
        ({"dtype": "float16"}, r"model.dtype='float16'.*bfloat16.*float32"),
        ({"p6_from": "p4"}, r"'p4'.*c5.*p5"),
        ({"width": 0.001}, r"width 0.001"),
        ({"backbone": "swin_t", "drop_path": -0.1}, r"drop_path is -0.1"),
        ({"anchors.sizes": (32.0, 64.0)}, r"model.anchors.sizes has 2"),
        ({"anchors.scales": 0}, r"model.anchors.scales is 0"),
        ({"retina_head.max_detections": 0}, r"retina_head.max_detections is 0"),
    ],
)
def test_an_unknown_name_is_answered_with_the_known_ones(changes, message):
    with pytest.raises(ValueError, match=message):
        build_detector(make_config(**changes), num_classes=3, image_size=IMAGE_SIZE)


@pytest.mark.parametrize("image_size", [(16, 64), (64,)])
def test_an_image_smaller_than_the_stride_is_refused(image_size):
    with pytest.raises(ValueError, match="image_size"):
        build_detector(make_config(), num_classes=3, image_size=image_size)


@pytest.mark.parametrize(
    ("changes", "counts", "message"),
    [
        ({}, (0, 0), "=retinanet learns boxes and the data have no class with boxes"),
        (
            {"detector": "panoptic_fpn"},
            (0, 5),  # stuff and no things
            "--config.model.detector=semantic_fpn for classes of pixels alone",
        ),
        (
            {"detector": "panoptic_fpn"},
            (3, 0),
            "=panoptic_fpn learns a class for each pixel and the data carry no label",
        ),
        (
            {"detector": "semantic_fpn"},
            (3, 0),
            "--config.data.semantic=all, or stuff",
        ),
        ({"test_cfg.mode": "slide"}, (3, 0), "crop_size and stride are for semantic_"),
        (
            {"detector": "semantic_fpn", "test_cfg.mode": "windows"},
            (0, 5),
            "choose one of whole, slide",
        ),
        (
            {"detector": "semantic_fpn", "semantic_head.channels": 40},
            (0, 5),
            "multiple of norm_groups, 32",
        ),
    ],
)
def test_what_the_data_lack_or_a_detector_cannot_do_is_refused(
    changes, counts, message
):
    classes, labels = counts
    with pytest.raises(ValueError, match=message):
        build_detector(
            make_config(**changes),
            num_classes=classes,
            num_labels=labels,
            image_size=IMAGE_SIZE,
        )


@pytest.mark.parametrize(
    ("detector", "modules", "outputs"),
    [
        ("semantic_fpn", {"semantic_head"}, {"semantic"}),
        (
            "panoptic_fpn",
            {"rpn", "box_head", "mask_head", "semantic_head"},
            {"boxes", "masks", "semantic"},
        ),
    ],
)
def test_detectors_of_pixels_have_the_papers_modules(detector, modules, outputs):
    config = make_config(detector=detector)
    config.anchors.scales = 1
    built = build_detector(config, num_classes=3, num_labels=4, image_size=IMAGE_SIZE)
    params, _ = jax.eval_shape(built.init, jax.random.key(0))
    assert set(params) == {"backbone", "fpn"} | modules
    assert params["semantic_head"]["logits"]["bias"].shape == (4,)
    assert built.outputs == outputs
