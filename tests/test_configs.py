"""Every config builds a detector, an optimizer and a plan of its batches."""

import importlib
from pathlib import Path

import jax
import pytest

from agvm_jax.data.augment.augmentation import Resizing
from agvm_jax.data.order import oriented
from agvm_jax.data.pipeline import check_settings
from agvm_jax.training.resolve import resolve
from models.build import build_detector

FILES = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))
NAMES = [path.stem for path in FILES if path.stem != "__init__"]
MODULES = {
    "retinanet": {"backbone", "fpn", "head"},
    "faster_rcnn": {"backbone", "fpn", "rpn", "box_head"},
    "mask_rcnn": {"backbone", "fpn", "rpn", "box_head", "mask_head"},
}


def on_coco(config, num_devices=8):
    """What follows from a config for COCO's training images that have objects."""
    return resolve(config, num_images=117266, num_devices=num_devices, platform="cpu")


@pytest.mark.parametrize("name", NAMES)
def test_a_config_fits_together(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    config.model.dtype = config.model.dtype.replace("auto", "float32")
    detector = build_detector(
        config.model, num_classes=5, image_size=config.image_size, axis_name="data"
    )
    params, _ = jax.eval_shape(detector.init, jax.random.key(0))
    assert set(params) == MODULES[config.model.detector]
    for devices in (1, 8):
        if config.batch_size % devices == 0:
            recipe = on_coco(config, num_devices=devices).recipe
            jax.eval_shape(recipe.tx.init, params)  # knows the anchor
    docstring = importlib.import_module(f"configs.{name}").__doc__
    assert name == "base" or f"--config configs/{name}.py" in docstring


def test_a_mask_head_learns_from_masks():
    for name in NAMES:
        config = importlib.import_module(f"configs.{name}").get_config()
        assert (config.model.detector == "mask_rcnn") <= (config.data.mask_size > 0)


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
    assert config.optim.clip_norm == 1 and config.optim.clip_window == (360, 560)
    assert config.optim.momentum == 0.9 and config.optim.weight_decay == 1e-4
    assert not config.optim.no_decay
    factors = {0: 1e-3, 230: 1e-3**0.5, 460: 1, 2759: 1, 2760: 0.1, 3220: 0.01}
    for step, factor in factors.items():
        assert float(recipe.schedule(step)) == pytest.approx(rate * factor, rel=1e-4)


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
