"""Every config builds a detector, an optimizer and a plan of its batches."""

import importlib
import math
from pathlib import Path

import jax
import numpy as np
import pytest

from agvm_jax.data.augment.augmentation import Augmentation, Resizing, sample
from agvm_jax.data.example import check_config
from agvm_jax.data.order import oriented
from agvm_jax.data.pipeline import check_settings
from agvm_jax.evaluation.metrics.panoptic_merge import MergeRule
from agvm_jax.evaluation.tasks import choose_task
from agvm_jax.training.config_file import read_config
from agvm_jax.training.input_size import evaluation_size
from agvm_jax.training.resolve import resolve
from models.build import build_detector

FILES = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))
NAMES = [path.stem for path in FILES if path.stem not in ("__init__", "recipes")]
MODULES = {
    "retinanet": {"backbone", "fpn", "head"},
    "faster_rcnn": {"backbone", "fpn", "rpn", "box_head"},
    "mask_rcnn": {"backbone", "fpn", "rpn", "box_head", "mask_head"},
    "semantic_fpn": {"backbone", "fpn", "semantic_head"},
    "panoptic_fpn": {
        "backbone",
        "fpn",
        "rpn",
        "box_head",
        "mask_head",
        "semantic_head",
    },
}
MODULES["cascade_rcnn"] = MODULES["faster_rcnn"]
MODULES["cascade_mask_rcnn"] = MODULES["mask_rcnn"]


def on_coco(config, num_devices=8):
    """What follows from a config for COCO's training images that have objects."""
    return resolve(config, num_images=117266, num_devices=num_devices, platform="cpu")


@pytest.mark.parametrize("name", NAMES)
def test_a_config_fits_together(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    config.model.dtype = config.model.dtype.replace("auto", "float32")
    detector = build_detector(
        config.model,
        num_classes=5,
        num_labels=4,
        image_size=config.image_size,
        axis_name="data",
    )
    choose_task(detector.outputs).check_data(config.data, config.model.detector)
    evaluated = evaluation_size(config)
    check_config(evaluated.data_config, evaluated.image_size)
    MergeRule(**config.eval.panoptic)
    params, _ = jax.eval_shape(detector.init, jax.random.key(0))
    assert set(params) == MODULES[config.model.detector]
    for devices in (1, 8):
        if config.batch_size % devices == 0:
            recipe = on_coco(config, num_devices=devices).recipe
            jax.eval_shape(recipe.tx.init, params)  # knows the anchor
    docstring = importlib.import_module(f"configs.{name}").__doc__
    assert name == "base" or f"--config configs/{name}.py" in docstring


@pytest.mark.parametrize(
    ("batch_size", "rate", "steps"),
    [
        (32, 0.02, 160_000),
        (512, 0.2263, 10_000),
        (1024, 0.32, 5000),
        (2048, 0.4525, 2500),
    ],
)
def test_semantic_fpn_sees_as_many_images_at_any_batch(batch_size, rate, steps):
    """The paper's Table 2; its rule is linear up to 256 images, the root above."""
    config = importlib.import_module("configs.semantic_fpn").get_config()
    config.batch_size = batch_size
    resolved = resolve(config, num_images=20210, num_devices=8, platform="cpu")
    assert resolved.total_steps == steps
    schedule, warmup = resolved.recipe.schedule, resolved.recipe.warmup_steps
    assert warmup == -(-20210 // batch_size)
    left = (1 - warmup / steps) ** 0.9  # of a polynomial decay
    assert float(schedule(warmup)) == pytest.approx(rate * left, rel=0.02)
    # mmsegmentation: from 0.01 to 1e-4
    assert float(schedule(steps)) == pytest.approx(0.01 * rate, rel=1e-3)


def test_panoptic_fpn_has_the_papers_steps_and_drops():
    for batch_size, steps in ((32, 51310), (256, 6426), (512, 3220), (1024, 1610)):
        config = importlib.import_module("configs.panoptic_fpn").get_config()
        config.batch_size = batch_size
        resolved = on_coco(config)
        assert abs(resolved.total_steps - steps) <= 14  # an epoch rounded up or not
    assert config.data.filter_empty and config.data.semantic == "stuff"
    schedule = resolved.recipe.schedule
    before, between, after = (float(schedule(115 * n)) for n in (8, 10, 13))
    assert before / between == pytest.approx(10) and between / after == pytest.approx(
        10
    )


def at_batch_512(name):
    """A config of that batch and its optimizer; an epoch has 230 steps."""
    config = importlib.import_module(f"configs.{name}").get_config()
    return config, on_coco(config).recipe


@pytest.mark.parametrize(("name", "rate"), [("faster_rcnn", 0.38), ("mask_rcnn", 0.32)])
def test_the_released_codes_numbers_at_batch_512(name, rate):
    """Its warm-up has 460 steps; window and start stand around the end of that."""
    config, recipe = at_batch_512(name)
    assert config.batch_size == 512 and config.epochs == 16
    assert recipe.warmup_steps == 460
    assert recipe.agvm.start_step == 460 + 100
    assert (recipe.agvm.tau, recipe.agvm.alpha) == (10, 0.97)
    assert config.optim.clip_norm == 1
    assert "clipped to global norm 1 from step 360 to 560" in "\n".join(recipe.reasons)
    assert config.optim.momentum == 0.9 and config.optim.weight_decay == 1e-4
    assert not config.optim.no_decay
    factors = {0: 1e-3, 230: 1e-3**0.5, 460: 1, 2759: 1, 2760: 0.1, 3220: 0.01}
    for step, factor in factors.items():
        assert float(recipe.schedule(step)) == pytest.approx(rate * factor, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "batch_size", "start", "window"),
    [
        ("faster_rcnn", 256, 1020, "820 to 1020"),
        ("faster_rcnn", 1536, 254, "54 to 254"),
        ("mask_rcnn", 256, 1020, "820 to 1020"),
        ("mask_rcnn", 1024, 330, "130 to 330"),
    ],
)
def test_start_and_window_go_with_the_batch(name, batch_size, start, window):
    config = importlib.import_module(f"configs.{name}").get_config()
    config.batch_size = batch_size
    if batch_size == 256:  # as the released code has it; two epochs are 918 steps
        config.optim.warmup_steps = 920
    recipe = on_coco(config).recipe
    assert recipe.agvm.start_step == start
    assert f"from step {window}, around" in "\n".join(recipe.reasons)


@pytest.mark.parametrize("name", ["faster_rcnn_adamw", "faster_rcnn_swin"])
def test_what_the_released_code_does_not_have_is_not_clipped(name):
    config, recipe = at_batch_512(name)
    assert config.optim.clip_norm == 0
    assert recipe.agvm.start_step == recipe.warmup_steps


@pytest.mark.parametrize(
    "name", ["retinanet_10k", *(n for n in NAMES if n.endswith("rcnn"))]
)
def test_a_portrait_is_as_large_as_a_landscape(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    assert config.data.orientation_group % (8 * config.micro_batch_size) == 0
    resizing = Resizing(config.data.short_sides, config.data.long_side)
    frames = [oriented(config.image_size, size) for size in ((480, 640), (640, 480))]
    assert frames == [(800, 1344), (1344, 800)]
    sizes = [
        resizing.target(size, frame, resizing.still())
        for size, frame in zip(((480, 640), (640, 480)), frames, strict=True)
    ]
    assert sizes == [(800, 1067), (1067, 800)]


@pytest.mark.parametrize(
    ("batch_size", "rate"),
    [(32, 0.04), (256, 0.2263), (512, 0.32), (1024, 0.4525), (1536, 0.5543)],
)
def test_the_papers_rates_follow_from_the_batch(batch_size, rate):
    """Section 1 of the paper's supplement: 0.02 per 16, the root above 128."""
    config = importlib.import_module("configs.mask_rcnn").get_config()
    config.update(batch_size=batch_size, steps=1000, micro_batch_size=1)
    config.optim.warmup_steps = 10
    recipe = on_coco(config).recipe
    assert float(recipe.schedule(100)) == pytest.approx(rate, rel=1e-3)


def test_the_recipe_for_batch_10240_can_be_tried_on_a_small_frame():
    """Sides of 800 px are more than a frame of 64 has; the frame then decides."""
    config = importlib.import_module("configs.retinanet_10k").get_config()
    check_settings(config.data, (64, 64), config.micro_batch_size)
    resizing = Resizing(config.data.short_sides, config.data.long_side)
    assert resizing.target((100, 200), (64, 64), resizing.still()) == (32, 64)


WITH_VARIANTS = ("faster_rcnn", "mask_rcnn", "panoptic_fpn", "retinanet_10k")


def variant(name, suffix):
    """The config that --config configs/NAME.py:SUFFIX stands for."""
    return read_config(f"{FILES[0].parent / name}.py:{suffix}")


@pytest.mark.parametrize("name", WITH_VARIANTS)
@pytest.mark.parametrize(
    ("suffix", "images", "drops"),
    [
        ("1x_ms", 90_000 * 16, (60 / 90, 80 / 90)),
        ("3x_ms", 270_000 * 16, (210 / 270, 250 / 270)),
        ("lsj", 100 * 117266, (163889 / 184375, 177546 / 184375)),
    ],
)
def test_a_variant_is_as_long_as_detectron2s(name, suffix, images, drops):
    config, plain = variant(name, suffix), variant(name, "")
    assert config.name == f"{plain.name}_{suffix}"  # a run folder of its own
    assert config.optim.lr == plain.optim.lr and config.batch_size == plain.batch_size
    resolved = on_coco(config)
    epochs = resolved.total_steps / math.ceil(117266 / config.batch_size)
    assert epochs == pytest.approx(images / 117266, abs=1 / 12)  # a step, rounded
    rate, steps = resolved.recipe.schedule, resolved.total_steps
    for drop in drops:
        before, after = int(steps * (drop - 0.01)), int(steps * (drop + 0.01)) + 1
        assert float(rate(before) / rate(after)) == pytest.approx(10, rel=1e-3)
    if suffix == "lsj":
        assert config.data.orientation_group == 0
    for size in ((480, 640), (640, 480)):  # evaluation is COCO's usual one
        evaluated = evaluation_size(config)
        frame = oriented(evaluated.image_size, size)
        data = evaluated.data_config
        resizing = Resizing(data.short_sides, data.long_side)
        assert frame in ((800, 1344), (1344, 800))
        assert min(resizing.target(size, frame, resizing.still())) == 800
        assert data.orientation_group


@pytest.mark.parametrize("name", WITH_VARIANTS)
def test_a_variant_has_the_scales_that_it_says(name):
    rng, size = np.random.default_rng(0), (480, 640)
    config = variant(name, "3x_ms")
    assert tuple(config.image_size) == (800, 1344)
    drawn = [
        sample(rng, size, config.image_size, Augmentation.of(config.data)).placement
        for _ in range(100)
    ]
    assert {p.resized[0] for p in drawn} == {640, 672, 704, 736, 768, 800}
    assert all(p.window == p.resized for p in drawn)  # nothing is cut off

    config = variant(name, "lsj")
    assert tuple(config.image_size) == (1024, 1024)
    drawn = [
        sample(rng, size, config.image_size, Augmentation.of(config.data)).placement
        for _ in range(500)
    ]
    widths = np.array([p.resized[1] for p in drawn]) / 1024
    assert 0.1 <= widths.min() < 0.12 and 1.97 < widths.max() <= 2.0
    assert max(max(p.window) for p in drawn) == 1024


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="no variant '2x': use 1x_ms, 3x_ms or lsj"):
        variant("panoptic_fpn", "2x")
    with pytest.raises(ValueError, match="has no variants: leave ':3x_ms' out"):
        variant("quickstart", "3x_ms")
