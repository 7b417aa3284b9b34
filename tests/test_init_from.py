"""The command line starts a run from a file of weights, and goes on without it."""

import jax
import numpy as np
import pytest
from command_lines import command_line
from torchvision_names import resnet18

import train


@pytest.fixture
def build(tmp_path):
    """Return a function: build what train.py runs for the tiny config, and begin it."""

    def build(*overrides):
        words = (
            f"--config.data.cache_dir={tmp_path / 'data'}",
            f"--config.workdir={tmp_path / 'run'}",
            "--config.model.norm=frozen",
        )
        with command_line(*words, *overrides) as argv:
            return train.build(train.parse(argv))

    return build


@pytest.fixture
def weights(tmp_path):
    """The tensors of a ResNet as torchvision names them, and the file they are in."""
    tensors = resnet18(width=1 / 8)
    np.savez(tmp_path / "weights.npz", **tensors)
    return tensors, tmp_path / "weights.npz"


def shapes(experiment):
    """The state that a run begins with, but for the numbers: nothing is compiled."""
    return jax.eval_shape(experiment.start.state)


def test_a_resnet_from_a_file_keeps_its_stem_and_first_stage(build, weights, capsys):
    """Every tensor of the file is where it belongs, and it learns but for these two."""
    tensors, path = weights
    state = build(f"--config.train.init_from={path}").start.state()
    out = capsys.readouterr().out
    assert (
        "weights     weights.npz: 100 of 124 arrays\n"
        "            as initialised: fpn, head\n"
        "            not used: fc\n"
    ) in out
    assert "frozen      backbone's stem, stage 1 (train.freeze_at=2)\n" in out
    assert set(state.params["backbone"]) == {"layer2", "layer3", "layer4"}
    for stage in range(1, 5):
        for block in "01":
            name = f"layer{stage}.{block}"
            norms = state.model_state["backbone"][f"layer{stage}"][block]
            kernels = norms
            if stage > 1:
                kernels = state.params["backbone"][f"layer{stage}"][block]
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
    with pytest.raises(ValueError, match="train.freeze_at is -1 there and 0 here"):
        build(f"--config.train.init_from={path}", "--config.train.freeze_at=0")


def test_a_run_that_has_a_checkpoint_takes_its_weights_from_there(
    build, weights, tmp_path, capsys
):
    _, path = weights
    options = f"--config.train.init_from={path}", "--config.train.freeze_at=0"
    assert "layer1" in shapes(build(*options)).params["backbone"]
    assert "weights.npz: 100 of 124 arrays" in capsys.readouterr().out
    path.unlink()
    (tmp_path / "run" / "checkpoints" / "3").mkdir(parents=True)
    build(*options)
    assert "weights.npz" not in capsys.readouterr().out


def test_random_weights_are_not_frozen(build):
    assert "layer1" in shapes(build()).params["backbone"]
    with pytest.raises(ValueError, match="would keep the random weights"):
        build("--config.train.freeze_at=1")


def test_a_backbone_that_is_all_frozen_cannot_be_the_anchor(build, weights):
    options = f"--config.train.init_from={weights[1]}", "--config.train.freeze_at=5"
    with pytest.raises(ValueError, match="anchor"):
        build(*options)
    state = shapes(build(*options, "--config.agvm.anchor=fpn"))
    assert set(state.params) == {"fpn", "head"}
