"""train.py that starts from a file of weights, in processes of its own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
from torchvision_names import resnet18

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("init_from")


@pytest.fixture(scope="module")
def train(scratch):
    """Run train.py on the tiny config with weights that a step does not move."""

    def run(*overrides):
        return subprocess.run(
            [
                sys.executable,
                "train.py",
                "--config=configs/tiny.py",
                "--config.steps=1",
                f"--config.data.cache_dir={scratch / 'data'}",
                f"--config.workdir={scratch / 'run'}",
                "--config.train.progress=False",
                "--config.model.norm=frozen",
                "--config.agvm.enabled=False",
                "--config.optim.name=sgd",
                "--config.optim.lr=1e-30",
                *overrides,
            ],
            cwd=ROOT,
            env={**os.environ, "JAX_NUM_CPU_DEVICES": "2"},
            capture_output=True,
            text=True,
            timeout=280,
        )

    return run


def checkpoint(folder):
    with ocp.CheckpointManager(folder / "checkpoints") as manager:
        return manager.restore(manager.latest_step(), args=ocp.args.StandardRestore())


def test_a_run_starts_from_the_file_and_goes_on_without_it(train, scratch):
    tensors = resnet18(width=1 / 8)
    path = scratch / "weights.npz"
    np.savez(path, **tensors)
    first = train(f"--config.train.init_from={path}")
    assert first.returncode == 0, first.stderr
    assert (
        "weights     weights.npz: 100 of 124 arrays\n"
        "            as initialised: fpn, head\n"
        "            not used: fc\n"
    ) in first.stdout
    saved = checkpoint(scratch / "run")
    backbone = saved["params"]["backbone"]
    for block in range(2):
        for conv in ("conv1", "conv2"):
            np.testing.assert_array_equal(
                backbone["layer4"][str(block)][conv]["kernel"],
                tensors[f"layer4.{block}.{conv}.weight"].transpose(2, 3, 1, 0),
            )
    frozen = saved["model_state"]["backbone"]["layer4"]["1"]["bn2"]
    for ours, theirs in (
        ("scale", "weight"),
        ("bias", "bias"),
        ("mean", "running_mean"),
        ("var", "running_var"),
    ):
        np.testing.assert_array_equal(
            frozen[ours], tensors[f"layer4.1.bn2.{theirs}"], ours
        )

    path.unlink()
    again = train(f"--config.train.init_from={path}")
    assert again.returncode == 0, again.stderr
    assert "this run was finished before" in again.stdout
    assert "weights.npz: " not in again.stdout
