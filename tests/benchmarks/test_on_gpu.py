"""What benchmarks.on_gpu does around the figures; the figures need a GPU."""

import argparse
import gzip
import json
import sys
import zipfile

import numpy as np
import pytest

from benchmarks.on_gpu.__main__ import PARTS, run, unpack
from benchmarks.on_gpu.comparing import distance, on_both
from benchmarks.on_gpu.lines import Lines, read_lines, table
from benchmarks.on_gpu.profile import kernels
from benchmarks.on_gpu.training import GPU, wanted
from benchmarks.paper.cells import Runs


@pytest.fixture
def lines(tmp_path):
    return Lines("ops", argparse.Namespace(out=tmp_path, seconds=100))


def test_lines_are_kept_and_the_last_of_a_name_counts(lines, tmp_path, capsys):
    lines.add("nms", ok=False, error=0.5)
    lines.add("nms", ok=True, error=0.25)
    lines.add("top_k", skipped="no time left")
    text = table(read_lines(tmp_path))
    assert text.splitlines()[0] == "-- ops"
    assert "error 0.25" in text and "error 0.5" not in text
    assert text.endswith("-- 1 judged, 0 wrong")
    with pytest.raises(SystemExit) as ended:
        lines.finish()
    assert ended.value.code == 1  # one was wrong in this process


def test_a_stage_that_fails_or_has_no_time_costs_its_own_lines_only(tmp_path, capfd):
    args = argparse.Namespace(out=tmp_path, dry_run=True, earlier=None)
    assert run("no_such_stage", args, {}, 60) == 1
    assert run("ops", args, {}, 2) == 1
    assert "ops: no time left" in capfd.readouterr().out


def test_the_stages_of_part_a_fit_nine_minutes():
    for stages in PARTS.values():
        assert sum(stages.values()) <= 9 * 60


def test_carried_wheels_can_be_imported(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="holds no wheels"):
        unpack(tmp_path, tmp_path / "packages")
    with zipfile.ZipFile(tmp_path / "carried-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("carried_for_a_test.py", "VALUE = 7")
    monkeypatch.syspath_prepend(unpack(tmp_path, tmp_path / "packages"))
    import carried_for_a_test

    assert carried_for_a_test.VALUE == 7
    del sys.modules["carried_for_a_test"]


def test_what_differs_is_seen():
    known = {"a": np.ones(4, np.float32), "b": np.arange(4)}
    assert distance(known, known) == 0
    assert distance(known | {"a": np.full(4, 1.01, np.float32)}, known) > 0.009
    assert distance(known | {"b": np.array([0, 1, 2, 9])}, known) == 0.25
    assert np.isnan(distance(known | {"a": np.full(4, np.nan)}, known))


def test_the_two_sides_are_traced_in_their_own_forms():
    from models.ops.forms import current_forms

    seen = []

    def function(x):
        seen.append(current_forms())
        return x

    on_both(function, np.zeros(2))
    assert seen == ["gpu", "cpu"]


def test_only_the_streams_of_a_device_count(tmp_path):
    def named(kind, pid, name, tid=0):
        return {"name": kind, "pid": pid, "tid": tid, "ph": "M", "args": {"name": name}}

    events = [
        named("process_name", 1, "/host:CPU"),
        named("process_name", 2, "/device:GPU:0"),
        named("thread_name", 2, "Stream #1", tid=1),
        named("thread_name", 2, "XLA Modules", tid=2),
        {"name": "conv(1)", "pid": 2, "tid": 1, "ph": "X", "dur": 3},
        {"name": "conv(2)", "pid": 2, "tid": 1, "ph": "X", "dur": 4},
        {"name": "jit_step", "pid": 2, "tid": 2, "ph": "X", "dur": 7},
        {"name": "wait", "pid": 1, "tid": 0, "ph": "X", "dur": 90},
    ]
    path = tmp_path / "perfetto_trace.json.gz"
    with gzip.open(path, "wt") as file:
        json.dump({"traceEvents": events}, file)
    times, total = kernels(path)
    assert times == {"conv": 7} and total == 7


def test_a_grid_for_a_gpu_ends_with_its_time(lines, tmp_path):
    runs = Runs(tmp_path / GPU.name)
    cells = wanted(runs, lines)
    assert {cell.batch for cell in cells} == {512, 1024}
    assert GPU.config(1024, {}).micro_batch_size == 128
    lines.end = 0
    assert wanted(runs, lines) == []
