"""The command line starts a run from a file of weights, and goes on without it."""

import sys
from unittest import mock

import numpy as np
import pytest
from absl import flags
from torchvision_names import resnet18

import train


@pytest.fixture
def build(tmp_path):
    """Return a function: build what train.py runs for the tiny config, and begin it."""

    def build(*overrides):
        flags.FLAGS.unparse_flags()
        for name in [n for n in flags.FLAGS if n.startswith("config.")]:
            delattr(flags.FLAGS, name)
        arguments = [
            "train.py",
            "--config=configs/tiny.py",
            f"--config.data.cache_dir={tmp_path / 'data'}",
            f"--config.workdir={tmp_path / 'run'}",
            "--config.model.norm=frozen",
            *overrides,
        ]
        # ml_collections looks for overrides in sys.argv itself.
        with mock.patch.object(sys, "argv", arguments):
            config = train.parse(arguments)
        return train.build(config)

    return build


def test_a_run_starts_from_the_file_and_goes_on_without_it(build, tmp_path, capsys):
    tensors = resnet18(width=1 / 8)
    path = tmp_path / "weights.npz"
    np.savez(path, **tensors)
    state = build(
        f"--config.train.init_from={path}", "--config.train.freeze_at=0"
    ).start.state()
    assert (
        "weights     weights.npz: 100 of 124 arrays\n"
        "            as initialised: fpn, head\n"
        "            not used: fc\n"
    ) in capsys.readouterr().out
    for stage in range(1, 5):
        for block in "01":
            name = f"layer{stage}.{block}"
            kernels = state.params["backbone"][f"layer{stage}"][block]
            norms = state.model_state["backbone"][f"layer{stage}"][block]
            for index in "12":
                np.testing.assert_array_equal(
                    kernels[f"conv{index}"]["kernel"],
                    tensors[f"{name}.conv{index}.weight"].transpose(2, 3, 1, 0),
                )
                for ours, theirs in (
                    ("scale", "weight"),
                    ("bias", "bias"),
                    ("mean", "running_mean"),
                    ("var", "running_var"),
                ):
                    np.testing.assert_array_equal(
                        norms[f"bn{index}"][ours], tensors[f"{name}.bn{index}.{theirs}"]
                    )
    head = np.asarray(state.params["head"]["class_logits"]["kernel"])
    assert head.std() > 0  # as initialised

    # A run that has a checkpoint takes its weights from there.
    path.unlink()
    (tmp_path / "run" / "checkpoints" / "3").mkdir(parents=True)
    build(f"--config.train.init_from={path}", "--config.train.freeze_at=0")
    assert "weights.npz" not in capsys.readouterr().out


def test_a_resnet_from_a_file_keeps_its_stem_and_first_stage(build, tmp_path, capsys):
    tensors = resnet18(width=1 / 8)
    path = tmp_path / "weights.npz"
    np.savez(path, **tensors)
    state = build(f"--config.train.init_from={path}").start.state()
    assert (
        "frozen      backbone's stem, stage 1 (train.freeze_at=2)\n"
        in capsys.readouterr().out
    )
    assert set(state.params["backbone"]) == {"layer2", "layer3", "layer4"}
    np.testing.assert_array_equal(
        state.model_state["backbone"]["layer1"]["1"]["conv2"]["kernel"],
        tensors["layer1.1.conv2.weight"].transpose(2, 3, 1, 0),
    )
    with pytest.raises(ValueError, match="train.freeze_at is -1 there and 0 here"):
        build(f"--config.train.init_from={path}", "--config.train.freeze_at=0")


def test_random_weights_are_not_frozen(build):
    state = build().start.state()
    assert "layer1" in state.params["backbone"]
    with pytest.raises(ValueError, match="would keep the random weights"):
        build("--config.train.freeze_at=1")


def test_a_backbone_that_is_all_frozen_cannot_be_the_anchor(build, tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, **resnet18(width=1 / 8))
    options = f"--config.train.init_from={path}", "--config.train.freeze_at=5"
    with pytest.raises(ValueError, match="anchor"):
        build(*options)
    state = build(*options, "--config.agvm.anchor=fpn").start.state()
    assert set(state.params) == {"fpn", "head"}
