"""Each tracker gets what metrics.jsonl gets, in every sitting, without a network."""

import json
import logging
import sqlite3
import time

import pytest
from test_loop import run
from toy_run import comparable

from agvm_jax.training import trackers
from agvm_jax.training.trackers import Run, open_trackers, tracker_names


@pytest.fixture
def told(tmp_path):
    log = logging.getLogger("agvm_jax")
    return Run(tmp_path, "tiny/0", "project", {"a": {"b": 1}}, 0, log)


def test_names_are_checked_before_anything_starts(monkeypatch):
    assert tracker_names("") == [] and tracker_names("tensorboard, ") == ["tensorboard"]
    with pytest.raises(ValueError, match="'tensorbord' is not known; there are tensor"):
        tracker_names("tensorbord")
    monkeypatch.setitem(trackers.TRACKERS, "wandb", (None, "no_such_module", "wandb"))
    with pytest.raises(ValueError, match="needs the package wandb: pip install wandb"):
        tracker_names("tensorboard,wandb")


def test_one_that_fails_is_told_once_and_costs_nothing_else(monkeypatch, told, caplog):
    class Failing:
        def __init__(self, run):
            self.taken = 0

        def add(self, step, scalars):
            self.taken += 1
            if self.taken == 2:
                raise ConnectionError("the server\nis away")

        def close(self):
            raise AssertionError("it was left out")

    monkeypatch.setitem(trackers.TRACKERS, "wandb", (Failing, "json", "wandb"))
    monkeypatch.setattr(told.log, "propagate", True)
    (tracker,) = open_trackers(["wandb"], told)
    for step in range(4):
        tracker.add(step, {"loss": 1.0})
    tracker.close()
    (record,) = {id(record): record for record in caplog.records}.values()
    assert "tracker wandb failed" in record.message
    assert "the server is away" in record.message


def test_an_id_is_that_of_every_sitting(told):
    first = told.id_for("wandb")
    assert told.id_for("wandb") == first != told.id_for("mlflow")
    assert told.has("wandb") and not told.has("trackio")
    assert Run(*told).id_for("wandb") == first


def sittings(folder, name):
    """Runs the toy in two sittings; returns the losses by step of metrics.jsonl."""
    settings = {"train.trackers": name, "train.tracker_project": "toys"}
    assert run(folder, stop_at=4, settings=settings).status == "interrupted"
    assert run(folder, settings=settings).status == "finished"
    assert "failed" not in (folder / "log.txt").read_text()
    return {line["step"]: line["loss"] for line in comparable(folder) if "loss" in line}


@pytest.mark.filterwarnings("ignore")  # of what it is built on
def test_mlflow_has_one_run_of_both_sittings(tmp_path, monkeypatch):
    tracking = pytest.importorskip("mlflow.tracking")
    pytest.importorskip("sqlalchemy")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    losses = sittings(tmp_path, "mlflow")
    client = tracking.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'toys'")
    (found,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(found.info.run_id, "loss")
    assert {one.step: one.value for one in history} == losses
    assert found.info.status == "FINISHED"
    scores = client.get_metric_history(found.info.run_id, "eval/score")
    assert [one.step for one in scores] == [2, 4, 6]


@pytest.mark.filterwarnings("ignore")
def test_wandb_writes_offline_runs_of_one_id(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    sittings(tmp_path, "wandb")
    identifier = json.loads((tmp_path / "trackers.json").read_text())["wandb"]
    pattern = f"offline-run-*/run-{identifier}.wandb"
    files = list((tmp_path / "wandb").glob(pattern))
    assert files
    for _ in range(100):  # its own process writes them
        if all(b"eval/score" in file.read_bytes() for file in files):
            return
        time.sleep(0.2)
    pytest.fail(str([file.stat().st_size for file in files]))


@pytest.mark.filterwarnings("ignore")
def test_trackio_has_every_step(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    losses = sittings(tmp_path / "run", "trackio")
    (path,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(path) as base:
        rows = base.execute("SELECT step, metrics FROM metrics").fetchall()
    pairs = [(step, json.loads(metrics)) for step, metrics in rows]
    assert {step: m["loss"] for step, m in pairs if "loss" in m} == losses
