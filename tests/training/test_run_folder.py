"""One folder is one run; what a run writes down; signals."""

import json
import logging
import os
import resource
import signal
import struct
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from agvm_jax.training.metrics import MetricsWriter, read_metrics
from agvm_jax.training.run_folder import folder_of, open_run_folder
from agvm_jax.training.stop_signal import StopSignal
from agvm_jax.training.trackers import Run, open_trackers

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


def test_where_a_run_folder_lies(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = SimpleNamespace(workdir="", name="quickstart", seed=3)
    assert folder_of(config) == Path("runs/quickstart/3")
    config.workdir = "~/experiments/a"
    assert folder_of(config) == tmp_path / "experiments" / "a"


def test_keys_that_do_not_change_the_result_may_change(tmp_path):
    folder = open_run_folder(tmp_path / "run", CONFIG)
    open_run_folder(folder, {**CONFIG, "workdir": "x", "train": {"progress": False}})


def test_a_run_may_go_on_on_another_platform(tmp_path):
    def config(forms, dtype):
        return {**CONFIG, "model": {"op_forms": forms, "dtype": dtype}}

    folder = open_run_folder(tmp_path / "run", config("auto", "auto"))
    open_run_folder(folder, config("tpu", "auto"))
    with pytest.raises(ValueError, match="model.dtype") as error:
        open_run_folder(folder, config("gpu", "float32"))
    assert "op_forms" not in str(error.value)


def test_other_weights_to_start_from_make_another_run(tmp_path):
    config = {**CONFIG, "train": {"init_from": "a.npz", "progress": True}}
    folder = open_run_folder(tmp_path / "run", config)
    other = {**CONFIG, "train": {"init_from": "b.npz", "progress": False}}
    with pytest.raises(ValueError, match="init_from is 'a.npz' there") as error:
        open_run_folder(folder, other)
    assert "progress" not in str(error.value)


def test_a_key_that_is_newer_than_the_folder_may_be_off(tmp_path):
    folder = open_run_folder(tmp_path / "run", CONFIG)
    newer = {**CONFIG, "train": {"progress": True, "skip_steps": 0}}
    open_run_folder(folder, newer)
    newer["train"]["skip_steps"] = 2
    with pytest.raises(ValueError, match="train.skip_steps is 0 there and 2 here"):
        open_run_folder(folder, newer)


def test_lines_after_the_restored_step_and_a_torn_line_are_removed(tmp_path):
    writer = MetricsWriter(tmp_path)
    for step in (1, 2, 3):
        writer.write(step, {"loss": step / 2, "phi/head": float("nan")})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # killed while writing
    writer = MetricsWriter(tmp_path, start_step=2)
    writer.write(3, {"loss": 9.0})
    writer.close()
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert lines[-1]["loss"] == 9.0
    assert lines[0]["phi/head"] is None  # JSON has no NaN


def records(path):
    """The records of a TFRecord file, their checksums looked at."""
    content = path.read_bytes()
    while content:
        [size] = struct.unpack("<Q", content[:8])
        parts = content[:8], content[12 : 12 + size]
        sums = content[8:12], content[12 + size : 16 + size]
        assert [struct.unpack("<I", s)[0] for s in sums] == list(
            map(masked_crc32c, parts)
        )
        yield parts[1]
        content = content[16 + size :]


def tensorboard(folder, start_step=0):
    log = logging.getLogger("agvm_jax")
    run = Run(folder, "run", "project", {}, start_step, log)
    return open_trackers(["tensorboard"], run)


def test_tensorboard_gets_the_same_scalars(tmp_path):
    writer = MetricsWriter(tmp_path, trackers=tensorboard(tmp_path))
    writer.write(1, {"loss": 0.5})
    writer.write(2, {"loss": float("nan"), "phi/head": 1.5})
    writer.close()
    MetricsWriter(tmp_path, start_step=1, trackers=tensorboard(tmp_path, 1)).close()
    events = []
    for path in sorted((tmp_path / "tensorboard").glob("events.*")):
        for data in records(path):
            events.append(Event.FromString(data))
    scalars = [
        (event.step, value.tag, value.simple_value)
        for event in events
        for value in event.summary.value
    ]
    assert scalars == [(1, "loss", 0.5), (2, "phi/head", 1.5)]
    assert events[0].file_version == "brain.Event:2"
    assert (events[-1].step, events[-1].session_log.status) == (2, SessionLog.START)


def test_sigterm_is_a_wish_and_the_former_handler_comes_back():
    former = signal.getsignal(signal.SIGTERM)
    with StopSignal() as stop:
        assert not stop.reached(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.reached(2)
    assert signal.getsignal(signal.SIGTERM) is former


def test_lines_that_a_full_disk_does_not_take_are_written_later(tmp_path):
    """A limit on the size of files stands for the full disk."""
    writer = MetricsWriter(tmp_path, trackers=tensorboard(tmp_path))
    writer.write(1, {"loss": 1.0})
    size = (tmp_path / "metrics.jsonl").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    told = mock.Mock(level=0)
    logging.getLogger("agvm_jax").addHandler(told)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, hard))
    try:
        for step in range(2, 40):
            writer.write(step, {f"loss/{n}": 1.0 for n in range(40)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        logging.getLogger("agvm_jax").removeHandler(told)
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1]
    said = [call.args[0].getMessage() for call in told.handle.call_args_list]
    assert len(said) == 2  # of each file once
    assert "metrics.jsonl cannot be written: File too large" in said[0]
    writer.write(40, {"loss": 2.0})
    writer.close()
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 41))


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be written: .*--config.workdir"):
        open_run_folder(tmp_path / "file" / "run", CONFIG)
