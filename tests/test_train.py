"""The command line end to end: train, be killed, go on, finish, and complain well.

Each run is a process of its own, as a user starts it; a compilation cache that the
processes share keeps them short.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest

from agvm_jax.training.restoring import saved_steps

ROOT = Path(__file__).parents[1]
STEPS = 24


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("train")


@pytest.fixture(scope="module")
def start(scratch):
    """Returns a function that starts train.py and gives back the process."""
    environment = {
        **os.environ,
        "JAX_NUM_CPU_DEVICES": "2",
        "JAX_COMPILATION_CACHE_DIR": str(scratch / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def begin(folder, *overrides, config="configs/tiny.py"):
        command = [
            sys.executable,
            "train.py",
            f"--config={config}",
            f"--config.steps={STEPS}",
            f"--config.data.cache_dir={scratch / 'data'}",
            f"--config.workdir={scratch / folder}",
            "--config.train.progress=False",
            "--config.optim.lr_rule=none",
            "--config.train.checkpoint_every_epochs=0.5",
            *overrides,
        ]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return begin


@pytest.fixture(scope="module")
def train(start):
    """Returns a function that runs train.py to its end: (exit code, stdout, stderr)."""

    def run(folder, *overrides, **options):
        process = start(folder, *overrides, **options)
        out, err = process.communicate(timeout=280)
        return process.returncode, out, err

    return run


@pytest.fixture(scope="module")
def straight(train, scratch):
    """A run from start to end without a break."""
    code, out, err = train("straight")
    assert code == 0, err
    return scratch / "straight", out


def metrics(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def detections(folder):
    return json.loads((folder / "eval" / str(STEPS) / "detections.json").read_text())


def arrays(folder):
    """The arrays of the last checkpoint by path."""
    step = saved_steps(folder / "checkpoints")[-1]
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(folder / "checkpoints" / str(step) / "state")
    flat, _ = _flatten(tree)
    return step, flat


def _flatten(tree, prefix=""):
    flat = {}
    for key, value in tree.items():
        path = f"{prefix}/{key}"
        if isinstance(value, dict):
            flat |= _flatten(value, path)[0]
        else:
            for i, leaf in enumerate(_leaves(value)):
                flat[f"{path}/{i}"] = np.asarray(leaf)
    return flat, None


def _leaves(value):
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in _leaves(item)]
    if isinstance(value, dict):
        return [leaf for key in sorted(value) for leaf in _leaves(value[key])]
    return [] if value is None else [value]


def comparable(lines):
    """Metrics without what a clock says."""
    return [
        {k: v for k, v in line.items() if k not in ("time", "images_per_second")}
        for line in lines
    ]


def test_the_loss_falls(straight):
    folder, _ = straight
    losses = [line["loss"] for line in metrics(folder) if "loss" in line]
    assert len(losses) == STEPS
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])


def test_a_run_leaves_everything_that_is_promised(straight):
    folder, out = straight
    for name in (
        "config.json",
        "environment.json",
        "log.txt",
        "plots/phi.png",
        "plots/mu.png",
        "model.json",
        "weights.safetensors",
        "weights_best.safetensors",
        f"eval/{STEPS}/results.json",
        f"eval/{STEPS}/worst.png",
        f"eval/{STEPS}/detections.json",
        f"eval/{STEPS}/detections.png",
    ):
        assert (folder / name).stat().st_size > 0, name
    assert list((folder / "tensorboard").glob("events.*"))
    line = metrics(folder)[-2]
    for module in ("backbone", "fpn", "head"):
        assert 0 <= line[f"phi/{module}"] <= 2
        assert line[f"mu/{module}"] > 0
    assert metrics(folder)[-1].keys() >= {"eval/AP", "eval/AP50"}
    for words in ("AP50", "learning rate", "linear warm-up", "AGVM around adamw"):
        assert words in out
    steps = sorted(int(p.name) for p in (folder / "checkpoints").iterdir())
    assert steps[-3:] == [16, 20, 24] and len(steps) <= 4  # the last three and the best


def test_the_same_command_again_evaluates_and_says_so(straight, train):
    folder, _ = straight
    before = (folder / "metrics.jsonl").read_bytes()
    found = detections(folder)
    code, out, err = train(
        "straight",
        "--config.eval.max_detections=(1,10,300)",
        "--config.eval.image_size=(96,128)",
        "--config.eval.short_side=80",
    )
    assert code == 0, err
    # Trained at 64 x 64: boxes are others, and still in pixels of the original.
    assert "at 96 x 128 px, shorter side 80\n" in out
    again = detections(folder)
    assert again != found
    for x, y, width, height in (one["bbox"] for one in again):
        assert -0.01 <= min(x, y) and max(x + width, y + height) < 64.01
    assert "this run was finished before, at step 24" in out and "AP50" in out
    assert "300 detections an image" in out  # as LVIS counts
    assert (folder / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow  # the toys of tests/training are stopped so, in every way
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(
    how, straight, start, train, scratch
):
    """Weights, optimizer, mu, BN statistics, noise scale, metrics; data order and
    augmentation too, or the numbers would differ.
    """
    folder = scratch / how.name
    process = start(how.name)
    while process.poll() is None and len(_written(folder)) < 10:
        time.sleep(0.02)
    process.send_signal(how)
    out, err = process.communicate(timeout=100)
    if how is signal.SIGTERM:
        assert process.returncode == 75, err
        assert "stopped by a signal" in out
    else:
        assert process.returncode == -signal.SIGKILL
    assert len(_written(folder)) < STEPS, "it was stopped too late to prove anything"

    code, out, err = train(how.name)
    assert code == 0, err
    assert re.search(r"resumed from the checkpoint of step \d+ of 24", out)
    step, resumed = arrays(folder)
    expected_step, expected = arrays(straight[0])
    assert step == expected_step == STEPS
    assert resumed.keys() == expected.keys() and len(expected) > 50
    for path, value in expected.items():
        np.testing.assert_array_equal(resumed[path], value, err_msg=path)
    assert comparable(metrics(folder)) == comparable(metrics(straight[0]))


def _written(folder):
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    return [line for line in path.read_text().splitlines() if '"loss"' in line]
