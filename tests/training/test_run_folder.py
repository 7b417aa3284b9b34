"""One folder is one run; what a run writes down; signals."""

import json
import os
import signal

import pytest

from agvm_jax.training.metrics import MetricsWriter, read_metrics
from agvm_jax.training.run_folder import open_run_folder
from agvm_jax.training.stop_signal import StopSignal

CONFIG = {
    "batch_size": 16,
    "image_size": (64, 64),
    "workdir": "",
    "train": {"progress": True},
    "optim": {"lr": 0.1},
}


def test_the_same_config_finds_its_folder_again(tmp_path):
    folder = open_run_folder(tmp_path / "run", CONFIG)
    assert open_run_folder(folder, CONFIG) == folder
    assert json.loads((folder / "config.json").read_text())["batch_size"] == 16


def test_another_config_is_refused_and_nothing_is_touched(tmp_path):
    folder = open_run_folder(tmp_path / "run", CONFIG)
    before = (folder / "config.json").read_bytes()
    other = {**CONFIG, "batch_size": 32, "optim": {"lr": 0.2}}
    with pytest.raises(ValueError, match="batch_size is 16 there and 32 here") as error:
        open_run_folder(folder, other)
    assert "optim.lr is 0.1 there and 0.2 here" in str(error.value)
    assert "--config.name" in str(error.value)
    assert (folder / "config.json").read_bytes() == before


def test_keys_that_do_not_change_the_result_may_change(tmp_path):
    folder = open_run_folder(tmp_path / "run", CONFIG)
    open_run_folder(folder, {**CONFIG, "workdir": "x", "train": {"progress": False}})


def test_other_weights_to_start_from_make_another_run(tmp_path):
    config = {**CONFIG, "train": {"init_from": "a.npz", "progress": True}}
    folder = open_run_folder(tmp_path / "run", config)
    other = {**CONFIG, "train": {"init_from": "b.npz", "progress": False}}
    with pytest.raises(ValueError, match="init_from is 'a.npz' there") as error:
        open_run_folder(folder, other)
    assert "progress" not in str(error.value)


def test_lines_after_the_restored_step_and_a_torn_line_are_removed(tmp_path):
    writer = MetricsWriter(tmp_path, tensorboard=False)
    for step in (1, 2, 3):
        writer.write(step, {"loss": step / 2, "phi/head": float("nan")})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # killed while writing
    writer = MetricsWriter(tmp_path, start_step=2, tensorboard=False)
    writer.write(3, {"loss": 9.0})
    writer.close()
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert lines[-1]["loss"] == 9.0
    assert lines[0]["phi/head"] is None  # JSON has no NaN


def test_tensorboard_gets_the_same_scalars(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.write(1, {"loss": 0.5})
    writer.close()
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_sigterm_is_a_wish_and_the_former_handler_comes_back():
    former = signal.getsignal(signal.SIGTERM)
    with StopSignal() as stop:
        assert not stop.reached(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.reached(2)
    assert signal.getsignal(signal.SIGTERM) is former
