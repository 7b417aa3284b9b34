"""Grids of cells: what is wanted follows from what is done."""

from pathlib import Path

import pytest

from benchmarks.paper.catalogue import REFUSED, TABLES
from benchmarks.paper.cells import Cell, Runs, failed
from benchmarks.paper.full_scale import COMMANDS
from benchmarks.paper.grids import Sweep, factors_of, ladder, sweep_then_seeds, upwards
from benchmarks.paper.methods import METHODS, own_method, rate_at
from benchmarks.paper.scales import TINY
from benchmarks.paper.steps import cells_of, fit, images_to

ADAMW = Sweep(METHODS["adamw"], 512)


def result(ap, **more):
    return {"AP": ap, "ap_at": {}, "mu_mean": {}, **more}


def done(*scores, sweep=ADAMW, places=(-2, -1, 0, 1, 2)):
    """Runs in which the cells of these places have these scores."""
    cells = [sweep.cell(place) for place in places]
    return Runs(
        Path("nowhere"), {c: result(s) for c, s in zip(cells, scores, strict=True)}
    )


def beside(sweep, runs, place, below, above):
    """The two rates beside the best are done."""
    runs.kept[sweep.cell(place - 0.5)] = result(below)
    runs.kept[sweep.cell(place + 0.5)] = result(above)


def test_a_sweep_has_five_rates_each_twice_the_one_before():
    rates = [cell.rate for cell in ADAMW.rates(done(places=()))]
    assert rates == [0.001, 0.002, 0.004, 0.008, 0.016]
    assert rate_at("adam", 32, 0) == rates[2] / 4


def test_seeds_follow_when_the_best_rate_is_inside():
    half = done(0.1, 0.2, places=(-2, -1))
    assert ADAMW.best(half) is None and not ADAMW.seeds(half)
    runs = done(0.1, 0.2, 0.3, 0.1, None)
    rates = [cell.rate for cell in ADAMW.rates(runs)]
    assert rates == [0.001, 0.002, 0.00283, 0.004, 0.00566, 0.008, 0.016]
    assert ADAMW.best(runs) is None  # those beside the best are not done
    beside(ADAMW, runs, 0, 0.25, 0.31)
    assert ADAMW.best(runs) == ADAMW.cell(0.5)
    assert [cell.seed for cell in ADAMW.seeds(runs)] == [0, 1, 2, 3, 4]
    assert len(ADAMW.rates(runs)) == 7


@pytest.mark.parametrize(
    "scores, beyond", [((1, 2, 3, 4, 5), 3), ((5, 4, 3, 2, 1), -3)]
)
def test_a_sweep_goes_on_while_its_best_rate_is_the_last(scores, beyond):
    runs = done(*(score / 100 for score in scores))
    assert ADAMW.cell(beyond) in ADAMW.rates(runs)
    assert len(ADAMW.rates(runs)) == 6
    assert ADAMW.best(runs) is None  # the sixth is not done
    runs.kept[ADAMW.cell(beyond)] = result(0.015)
    best = 2 if beyond > 0 else -2
    beside(ADAMW, runs, best, 0.02, 0.02)
    assert len(ADAMW.rates(runs)) == 8
    assert ADAMW.best(runs) == ADAMW.cell(best)


def test_while_no_rate_trains_lower_ones_are_tried():
    runs = done(None, 0.001, None, None, None)
    assert ADAMW.best(runs) is None
    assert [cell.rate for cell in ADAMW.rates(runs)][:2] == [0.0005, 0.001]
    runs.kept[ADAMW.cell(-3)] = result(0.2)  # and one that trains is the lowest: on
    assert [cell.rate for cell in ADAMW.rates(runs)][:2] == [0.00025, 0.0005]


def test_a_method_that_never_trains_has_no_best_rate_and_its_sweep_ends():
    runs = done(*[None] * 13, places=range(-10, 3))
    assert len(ADAMW.rates(runs)) == 13 and ADAMW.best(runs) is None
    assert failed(result(0.001)) and failed(result(float("nan")))


def test_the_control_waits_for_the_factors_of_the_best_run_of_agvm():
    agvm, control = Sweep(METHODS["agvm_adamw"], 512), Sweep(METHODS["control"], 512)
    runs = done(0.1, 0.2, 0.3, 0.1, sweep=agvm, places=(-2, -1, 0, 1))
    assert sweep_then_seeds(runs, [control]) == []
    runs.kept[agvm.cell(2)] = result(None)
    beside(agvm, runs, 0, 0.2, 0.2)
    runs.kept[agvm.cell(0)] = result(0.3, mu_mean={"backbone": 1.0, "head": 1.5})
    assert sweep_then_seeds(runs, [control]) == control.rates(runs)
    assert factors_of(control.cell(1), runs) == {"backbone": 1.0, "head": 1.5}


def test_the_search_for_the_first_failure_doubles_the_rate_until_there_is_one():
    runs = done(0.1, 0.2, 0.3, 0.2, 0.1)
    beside(ADAMW, runs, 0, 0.2, 0.2)
    assert upwards(runs, ADAMW)[-1] == ADAMW.cell(3)
    runs.kept[ADAMW.cell(3)] = result(0.05)
    assert upwards(runs, ADAMW)[-1] == ADAMW.cell(4)
    runs.kept[ADAMW.cell(4)] = result(None)
    assert upwards(runs, ADAMW)[-1] == ADAMW.cell(4)


def test_a_ladder_of_batches_ends_at_the_first_that_fails():
    runs = done(0.1, 0.2, 0.3, 0.2, 0.1)
    beside(ADAMW, runs, 0, 0.2, 0.2)
    batches = (2048, 8192)
    first = Cell("adamw", 2048, 0.008, 0)  # 0.004 times the root of four
    assert ladder(runs, ADAMW, batches)[7:] == [first]
    runs.kept[first] = result(0.2)
    assert [cell.batch for cell in ladder(runs, ADAMW, batches)[7:]] == [2048, 8192]
    runs.kept[first] = result(None)
    assert ladder(runs, ADAMW, batches)[7:] == [first]


def test_steps_sweep_towards_the_rate_that_needs_fewest_images():
    empty = done(places=())
    first = cells_of("adamw", 512, empty)
    assert [cell.rate for cell in first] == [0.004, 0.002, 0.008]
    needed = {0.004: 30_000, 0.002: 60_000, 0.008: 20_000}
    for cell in first:
        reached = {"1000": 0.0, str(needed[cell.rate]): 0.09}
        empty.kept[cell] = result(0.09, ap_at=reached)
    assert cells_of("adamw", 512, empty)[-1].rate == 0.016
    assert images_to(0.05, {"10": 0.01, "20": 0.02}) == float("inf")
    assert fit({8: 1.0, 16: 2.0}) is None


@pytest.mark.parametrize("name", TABLES)
def test_every_table_begins_with_cells_whose_configs_are_valid(name):
    empty = Runs(Path("nowhere"))
    cells = TABLES[name].wanted(empty)
    assert len(cells) >= 5 and len(set(cells)) == len(cells)
    for cell in cells:
        changes = {**METHODS[cell.method].changes, **cell.settings}
        config = TINY.config(cell.batch, changes, cell.options)
        assert config.batch_size == cell.batch
        assert cell.batch % (2 * config.micro_batch_size) == 0
        images = cell.options.get("run.images", TINY.images_seen)
        assert images <= TINY.train_images


def test_every_table_of_the_paper_is_there_or_says_why_not():
    assert {str(n) for n in range(1, 10)} <= set(TABLES) | set(REFUSED)
    assert set(COMMANDS) == {str(n) for n in range(1, 10)}
    for commands in COMMANDS.values():
        assert len(set(commands)) == len(commands) and commands


def test_the_large_network_is_trained_by_its_three_rows():
    cells = TABLES["8"].wanted(Runs(Path("nowhere")))
    assert {cell.method for cell in cells} == {"adamw", "pmd_lamb", "agvm_adamw"}
    config = TINY.config(256, {}, cells[0].options)
    assert (config.model.detector, config.model.backbone) == (
        "cascade_rcnn",
        "uninet_b0",
    )


def test_unknown_keys_and_optimizers_are_told():
    with pytest.raises(ValueError, match="agvm.beta"):
        TINY.config(512, {"agvm.beta": 1})
    with pytest.raises(ValueError, match="no_such_module"):
        own_method("no_such_module:make_tx")
    with pytest.raises(ValueError, match="MODULE:FUNCTION"):
        own_method("optax")


def test_results_survive_and_damage_is_told(tmp_path):
    runs, cell = Runs(tmp_path), Cell("adamw", 8, 0.1, 0, (("agvm.clip", (0.0, 1e9)),))
    assert runs.result(cell) is None
    runs.write(cell, {"AP": float("nan"), "phi": {"head": 0.5}})
    assert runs.result(cell)["AP"] is None
    assert list(runs.all()) == [cell]
    (runs.path(cell) / "result.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        runs.result(cell)


def test_a_cell_is_trained_by_one_process_at_a_time(tmp_path):
    runs, cell = Runs(tmp_path), Cell("adamw", 8, 0.1, 0)
    with runs.claim(cell) as mine:
        # A lock of the file that was opened, not of the process: a second opening
        # within this one is refused as another process's would be.
        with Runs(tmp_path).claim(cell) as other:
            assert mine and not other
    with runs.claim(cell) as mine:
        assert mine
    runs.write(cell, {"AP": 0.1})
    with runs.claim(cell) as mine:
        assert not mine  # done
