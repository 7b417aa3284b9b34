"""From results to CSV, tables and figures, on made-up numbers."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.paper import steps, work
from benchmarks.paper.__main__ import main, parse
from benchmarks.paper.cells import Cell, Runs
from benchmarks.paper.curves import gather, trouble, windows
from benchmarks.paper.grids import Sweep
from benchmarks.paper.methods import METHODS
from benchmarks.paper.report import CSV, trouble_table, write_report
from benchmarks.paper.results import read_csv, write_csv
from benchmarks.paper.statistics import paired, spread

GAIN = {"adamw": 0.0, "agvm_adamw": 0.02, "agvm_adamw_norms": 0.001}


def made_up(ap, seed=0, **more):
    return {
        "AP": ap,
        "AP50": None if ap is None else 2 * ap,
        "AP75": None if ap is None else ap / 2,
        "loss": 0.9,
        "skipped": 0,
        "steps": 256,
        "stopped_at": 31 if ap is None else None,
        "processor_a_step": 0.3,
        "seconds": 80.5,
        "phi": {"backbone": 0.8, "head": 0.3},
        "mu_mean": {"backbone": 1.0, "head": 1.5},
        "mu_max": {"backbone": 1.0, "head": 1.75},
        "noise": {"backbone": 2310.0, "all": 300.0},
        "factors": {},
        "ap_at": {},
        "spike_mu": {},
        "grad_end": {},
        "versions": {"jax": "0.10.2"},
        "commit": "abc1234",
        "started": "2026-11-25 01:00:00",
        **more,
    }


@pytest.fixture
def results():
    """A sweep, with a failure, and five seeds of three methods."""
    found = {}
    noise = np.random.default_rng(0).normal(0, 0.004, 5)
    for name, gain in GAIN.items():
        sweep = Sweep(METHODS[name], 512)
        places = -2, -1, -0.5, 0, 0.5, 1, 2
        scores = 0.1, 0.15, 0.16, 0.2, 0.17, 0.1, None
        for place, ap in zip(places, scores, strict=True):
            found[sweep.cell(place)] = made_up(ap and ap + gain)
        for seed in range(5):
            ap = 0.2 + gain + noise[seed] + 0.001 * (seed % 2) * bool(gain)
            found[sweep.cell(0, seed)] = made_up(ap)
    return found


def test_a_csv_gives_back_what_was_written(tmp_path, results):
    cell = Cell("agvm_adamw", 512, 0.004, 1, (("agvm.clip", (0.0, 1e9)),))
    results[cell] = made_up(0.125, ap_at={"8192": 0.01}, factors={"head": 1.25})
    path = tmp_path / "evidence" / "tiny.csv"
    write_csv(path, results)
    back = read_csv(path)
    assert set(back) == set(results)
    assert back[cell] == results[cell]
    stopped = next(c for c, r in results.items() if r["AP"] is None)
    assert back[stopped]["AP"] is None and back[stopped]["stopped_at"] == 31
    once = path.read_text()
    write_csv(path, back)
    assert path.read_text() == once
    path.write_text(once.replace("512", "many", 1))
    with pytest.raises(ValueError, match="line 2"):
        read_csv(path)


def test_differences_are_paired_by_seed_with_students_interval():
    ours, theirs = {0: 3.0, 1: 5.0, 2: 4.5, 9: 100.0}, {0: 2.0, 1: 3.0, 2: 4.0}
    difference = paired(ours, theirs)
    expected = stats.ttest_rel([3.0, 5.0, 4.5], [2.0, 3.0, 4.0]).confidence_interval()
    np.testing.assert_allclose(difference[:3], (3.5 / 3, *expected))
    assert difference.verdict == "no difference shown"
    assert paired({0: 1.0}, {1: 1.0}) is None
    assert np.isnan(spread([]).mean)


def test_the_report_finds_the_gain_that_was_put_in_and_the_one_that_was_not(
    tmp_path, results
):
    write_csv(tmp_path / CSV, results)
    paths = write_report(tmp_path / "no runs here", tmp_path)
    assert {path.name for path in paths} == {
        "tiny.csv",
        "tables.md",
        "evidence_bars.png",
        "evidence_rates.png",
        "evidence_differences.png",
    }
    text = (tmp_path / "evidence" / "tables.md").read_text()
    rows = [row for row in text.splitlines() if " - AdamW |" in row]
    assert "AGVM + AdamW, halves" in rows[0] and rows[0].endswith("| better |")
    assert "+2.0 [" in rows[0] or "+2.1 [" in rows[0]
    assert "0.016: x" in text and "**20" in text
    first = (tmp_path / CSV).read_text()
    write_report(tmp_path / "no runs here", tmp_path)
    assert (tmp_path / CSV).read_text() == first


def test_run_folders_add_to_the_csv(tmp_path, results):
    write_csv(tmp_path / CSV, results)
    cell = Sweep(METHODS["sgd"], 512).cell(0)
    runs = Runs(tmp_path / "runs")
    runs.write(cell, made_up(0.07))
    runs.write(cell.with_(method="own_mine_make_tx"), made_up(0.5))  # stays private
    write_report(tmp_path / "runs", tmp_path)
    assert read_csv(tmp_path / CSV)[cell]["AP"] == 0.07
    assert len(read_csv(tmp_path / CSV)) == len(results) + 1


def test_steps_to_a_target_are_told_and_drawn(tmp_path):
    runs = Runs(Path("nowhere"))
    for batch in steps.BATCHES:
        for cell in steps.cells_of("adamw", batch, runs):
            reached = {"1000": 0.001, str(4000 + 10 * batch): 0.09}
            runs.kept[cell] = made_up(0.09, ap_at=reached)
    text = steps.report(runs)
    row = next(row for row in text.splitlines() if row.startswith("| 8 | AdamW"))
    assert " x " not in row and row.count("steps") == 5
    assert "all 300" in text
    steps.draw(runs, tmp_path / "steps.png")
    assert (tmp_path / "steps.png").stat().st_size > 1000


def test_the_command_lists_refuses_and_names_the_large_runs(tmp_path, capsys):
    folders = ["--runs", str(tmp_path), "--docs", str(tmp_path)]
    assert main(["--list", *folders]) == 0
    assert "0 of 60 cells" in capsys.readouterr().out
    assert main(["--table", "4", *folders]) == 2
    assert "768 GPUs" in capsys.readouterr().err
    assert main(["--table", "12", *folders]) == 2
    assert "choose one of core" in capsys.readouterr().err
    assert main(["--table", "7", "--scale", "paper"]) == 0
    out = capsys.readouterr().out
    assert "configs/mask_rcnn.py" in out and "agvm.anchor=box_head" in out


def test_an_own_optimizer_is_listed_beside_adamw(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_sgd.py").write_text("import optax\nmake_tx = optax.sgd\n")
    monkeypatch.syspath_prepend(tmp_path)
    folders = ["--runs", str(tmp_path), "--docs", str(tmp_path)]
    assert main(["--optimizer", "my_sgd:make_tx", "--list", *folders]) == 0
    out = capsys.readouterr().out
    assert "own_my_sgd_make_tx/batch512/rate0.004/seed0" in out and "adamw/" in out
    assert main(["--optimizer", "my_sgd:nothing", "--list", *folders]) == 2
    assert "MODULE:FUNCTION" in capsys.readouterr().err


def test_several_processes_get_the_same_command(monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr(
        work, "start_workers", lambda count, rest: started.append((count, rest)) or 0
    )
    assert main(["--parallel=3", "--runs", str(tmp_path)]) == 0
    count, rest = started[0]
    assert count == 3 and parse(rest).parallel == 1


def test_windows_leave_out_steps_that_did_not_measure_but_no_bad_loss():
    steps = [{"loss": 1.0 + k, "finite": 1.0} for k in range(256)]
    steps[3]["phi/head"] = 0.5
    steps[255]["loss"] = float("nan")
    curve = windows(gather(steps))
    assert len(curve["step"]) == 128 and curve["loss"][0] == 1.5
    assert np.isnan(curve["loss"][-1]) and np.isfinite(curve["loss"][:-1]).all()
    assert curve["phi/head"][1] == 0.5 and np.isnan(curve["phi/head"][0])


def test_a_spike_and_a_dead_module_are_seen_in_a_curve():
    step = np.arange(1, 129)
    loss = np.linspace(2.3, 0.8, 128)
    loss[5] = 9.0  # in the warm-up: not counted
    loss[60] += 0.7
    grads = np.ones(128)
    curve = {
        "step": step,
        "loss": loss,
        "grad_norm/head": np.where(step > 100, 0.0, grads),
        "grad_norm/fpn": grads,
        "mu/head": np.linspace(1.0, 2.0, 128),
    }
    found = trouble(curve)
    assert found["spike_step"] == 61 and found["spike"] == pytest.approx(0.69, abs=0.01)
    assert found["spike_mu"]["head"] == pytest.approx(1 + 60 / 127)
    assert found["grad_end"] == {"head": 0.0, "fpn": 1.0}
    cell = Cell("adamw", 512, 0.1, 0)
    text = trouble_table(
        {cell: made_up(0.2, **found), cell.with_(seed=1): made_up(0.2)}
    )
    assert "0.69 at 61" in text and text.count("seed") == 1
    assert "head 0.00" in text and "x" not in text.splitlines()[-1].split("|")[2]
