"""What follows from a config: pure, so nothing is compiled and no data set is made."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agvm_jax.training.resolve import resolve
from configs import base, faster_rcnn, quickstart

ROOT = Path(__file__).parents[2]


def resolved(config, num_images=4096, num_devices=2, platform="cpu", **changes):
    config.update_from_flattened_dict(changes)
    return resolve(
        config, num_images=num_images, num_devices=num_devices, platform=platform
    )


def test_the_quickstarts_numbers_and_their_reasons():
    found = resolved(quickstart.get_config())
    assert (found.total_steps, found.steps_per_epoch) == (4096, 512)
    assert (found.plan.replicas, found.plan.micro_batch_size) == (2, 4)
    assert (found.dtype, found.freeze_at) == ("float32", 0)
    assert found.evaluated.image_size == (128, 128)
    assert found.recipe.agvm.start_step == found.recipe.warmup_steps == 512
    assert found.reasons == {
        "computed in": "float32",
        "evaluation": "at 128 x 128 px",
        "steps": "4096 (8 epochs), 512 an epoch (4096 images); batch 8 = 2 devices x"
        " 1 micro-batches x 4 images",
        "optimizer": "\n".join(found.recipe.reasons),
    }


def test_an_epoch_ends_with_the_batch_that_holds_its_last_image():
    found = resolved(quickstart.get_config(), num_images=4097, epochs=1.5)
    assert (found.steps_per_epoch, found.total_steps) == (513, 770)


def test_steps_are_stronger_than_epochs():
    found = resolved(quickstart.get_config(), steps=30)
    assert found.total_steps == 30
    assert found.reasons["steps"].startswith("30 (config.steps), 512 an epoch")


@pytest.mark.parametrize(
    ("dtype", "platform", "expected", "reason"),
    [
        ("auto", "cpu", "float32", "only emulates bfloat16"),
        ("auto", "gpu", "bfloat16", "a gpu multiplies it faster"),
        ("auto", "tpu", "bfloat16", "a tpu multiplies it faster"),
        ("float32", "tpu", "float32", "float32"),
        ("bfloat16", "cpu", "bfloat16", "bfloat16"),
    ],
)
def test_what_is_computed_in(dtype, platform, expected, reason):
    found = resolved(
        quickstart.get_config(), platform=platform, **{"model.dtype": dtype}
    )
    assert found.dtype == expected
    assert reason in found.reasons["computed in"]


@pytest.mark.parametrize(
    ("backbone", "freeze_at", "expected"),
    [("resnet50", -1, 2), ("resnet50", 0, 0), ("swin_t", -1, 0), ("swin_t", 3, 3)],
)
def test_what_is_frozen_of_a_backbone_from_a_file(backbone, freeze_at, expected):
    changes = {"model.backbone": backbone, "train.freeze_at": freeze_at}
    found = resolved(
        quickstart.get_config(), **changes, **{"train.init_from": "weights.npz"}
    )
    assert found.freeze_at == expected
    assert ("frozen" in found.reasons) == (expected > 0)
    if expected == 3:
        words = "backbone's stem, stage 1, stage 2 (train.freeze_at=3)"
        assert found.reasons["frozen"] == words


def test_random_weights_are_not_frozen():
    assert resolved(quickstart.get_config()).freeze_at == 0
    with pytest.raises(ValueError, match="would keep the random weights"):
        resolved(quickstart.get_config(), **{"train.freeze_at": 1})


def test_devices_and_batch_make_the_micro_batches():
    config = faster_rcnn.get_config()
    found = resolved(config, num_images=117266, num_devices=8, platform="tpu")
    assert (found.plan.micro_batches, found.plan.micro_batch_size) == (32, 2)
    assert found.dtype == "bfloat16"
    assert found.steps_per_epoch == 230 and found.total_steps == 16 * 230


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": -1}, "steps=-1"),
        ({"epochs": 0.0}, "epochs=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 3}, "cannot be divided over 2 devices"),
        ({"train.skip_steps": -1}, "skip_steps=-1 must be 0 or more"),
        ({"optim.name": "megdet", "model.norm": "frozen"}, "--config.model.norm"),
        ({"eval.short_side": -1}, "eval.short_side=-1"),
    ],
)
def test_what_does_not_fit_is_one_sentence(changes, words):
    with pytest.raises(ValueError, match=words):
        resolved(base.get_config(), **changes)


def test_it_looks_at_no_device_and_prints_nothing():
    """With a platform that there is not, whoever asks JAX for devices fails."""
    code = (
        "from configs import quickstart\n"
        "from agvm_jax.training.resolve import resolve\n"
        "found = resolve(quickstart.get_config(), num_images=9, num_devices=2,"
        " platform='tpu')\n"
        "assert found.total_steps == 16\n"
        "import jax\n"
        "try:\n"
        "    jax.devices()\n"
        "except RuntimeError:\n"
        "    raise SystemExit(7)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "none_such"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (7, ""), done.stderr
