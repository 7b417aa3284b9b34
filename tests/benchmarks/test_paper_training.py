"""One cell is trained, with a detector that compiles in a moment."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agvm_jax.structures import Predictions
from benchmarks.paper import program as program_module
from benchmarks.paper.cells import Cell, Runs
from benchmarks.paper.grids import Sweep
from benchmarks.paper.images import open_pool, order
from benchmarks.paper.methods import METHODS
from benchmarks.paper.program import carry_rate
from benchmarks.paper.scales import TINY
from benchmarks.paper.training import Trainer, evaluation_points
from benchmarks.paper.work import work
from models.functional import Detector

NUMBERS = "AP", "AP50", "AP75"
SCALE = dataclasses.replace(
    TINY, train_images=64, val_images=8, images_seen=48, micro_batches={8: 4}
)


def little_detector(*_, **__):
    """Learns one box for all pictures: a parameter a module."""

    def init(key):
        start = jax.random.uniform(key, (4,))
        params = {"backbone": {"w": start}, "fpn": {"w": start}, "head": {"w": start}}
        return params, {"steps": jnp.zeros([])}

    def box(params):
        return sum(params[name]["w"] for name in params) * 10.0

    def loss(params, model_state, batch, key):
        error = jnp.where(batch.valid[..., None], batch.boxes - box(params), 0.0)
        value = jnp.mean(jnp.abs(error))
        return value, ({"steps": model_state["steps"] + 1}, {"box": value})

    def predict(params, model_state, batch):
        count = len(batch.image)
        one = jnp.ones((count, 1))
        return Predictions(
            boxes=jnp.broadcast_to(box(params), (count, 1, 4)),
            scores=0.9 * one,
            classes=jnp.zeros((count, 1), jnp.int32),
            valid=one > 0,
        )

    return Detector(init, loss, predict, bind=None, outputs=frozenset({"boxes"}))


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    monkeypatch.setattr(program_module, "build_detector", little_detector)
    pools = [open_pool(SCALE, split, tmp_path / "images") for split in ("train", "val")]
    return Trainer(SCALE, *pools)


def test_a_run_sees_no_picture_twice_and_two_methods_the_same_ones(trainer):
    assert len(set(order(3, 64, 48).tolist())) == 48
    assert not np.array_equal(order(3, 64, 48), order(4, 64, 48))
    with pytest.raises(ValueError, match="train_images"):
        order(0, 64, 65)
    pool = trainer.train
    batch = pool.batch(np.array([5, 7]))
    assert batch.image.shape == (2, 32, 32, 3) and batch.classes.max() == 0
    assert len(pool.ground_truth()["annotations"]) == pool.valid.sum()


def test_a_cell_gives_numbers_and_a_curve(trainer):
    cell = Cell("agvm_adamw", 8, 0.01, 0)
    result, curve = trainer.run(cell, METHODS[cell.method])
    assert result["steps"] == 6 and result["skipped"] == 0
    assert 0 <= result["AP"] <= 1 and np.isfinite(result["loss"])
    assert set(result["phi"]) == {"backbone", "fpn", "head"}
    assert result["mu_max"]["backbone"] == 1.0
    assert curve["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert len(curve["mu/head"]) == 6
    # A seed again is the same run, by the program that is kept.
    program = trainer._program
    again, _ = trainer.run(cell, METHODS[cell.method])
    assert trainer._program is program and again["loss"] == result["loss"]
    other, _ = trainer.run(cell.with_(seed=1), METHODS[cell.method])
    assert trainer._program is program and other["loss"] != result["loss"]


def test_a_run_that_is_not_finite_is_a_result(trainer):
    trainer.scale = dataclasses.replace(SCALE, images_seen=64, micro_batches={4: 2})
    cell = Cell("adamw", 4, float("nan"), 0)
    result, curve = trainer.run(cell, METHODS["adamw"])
    assert result["AP"] is None and result["stopped_at"] == 10
    assert len(curve["step"]) == 11


def test_averaged_weights_are_evaluated_on_the_way_and_a_target_ends_the_run(trainer):
    options = (("run.evaluations", 3), ("run.images", 64), ("run.target", 0.0))
    cell = Cell("adamw", 8, 0.01, 0, options)
    result, _ = trainer.run(cell, METHODS["adamw"])
    assert result["steps"] == 1 and list(result["ap_at"]) == ["8"]
    assert evaluation_points(8, cell.options) == {1, 3, 8}


@pytest.mark.parametrize("name", ["sgd", "lamb", "agvm_adamw"])
def test_a_carried_rate_is_the_rate(name):
    """An optimizer at rate 1 with the rate in its state is the one at that rate."""
    params = {"backbone": jnp.ones((3, 2)), "head": jnp.full((2, 2), 0.5)}
    labels = {"backbone": "backbone", "head": "head"}
    method = METHODS[name]

    def build(rate):
        config = SCALE.config(8, {**method.changes, "optim.lr": rate})
        return program_module.build_optimizer(
            config.optim,
            config.agvm,
            batch_size=8,
            total_steps=10,
            steps_per_epoch=10,
        ).tx

    phi = {"backbone": jnp.float32(0.8), "head": jnp.float32(0.2)}
    extra = {"phi": phi} if method.modulated else {}
    ours, theirs = carry_rate(build(1.0), labels), build(0.03)
    state = ours.init(params)._replace(rate=jnp.float32(0.03))
    states, weights = [state, theirs.init(params)], [params, params]
    for step in range(2):
        for k, tx in enumerate((ours, theirs)):
            size = step + 1.0
            grads = {name: size * w**2 + 0.1 for name, w in weights[k].items()}
            updates, states[k] = tx.update(grads, states[k], weights[k], **extra)
            weights[k] = optax.apply_updates(weights[k], updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), *weights)
    fixed = states[0]._replace(factors={"backbone": 1.0, "head": 2.0})
    grads = jax.tree.map(jnp.ones_like, params)
    doubled, _ = ours.update(grads, fixed, params, **extra)
    plain, _ = ours.update(grads, states[0], params, **extra)
    np.testing.assert_allclose(doubled["head"], 2 * plain["head"], rtol=1e-6)
    np.testing.assert_array_equal(doubled["backbone"], plain["backbone"])


def test_what_schedule_free_evaluates_is_its_average_with_its_own_statistics(
    trainer, monkeypatch
):
    seen = []
    monkeypatch.setattr(
        trainer,
        "_evaluate",
        lambda *args: seen.append(args[1:]) or dict.fromkeys(NUMBERS, 0.5),
    )
    cell = Cell("schedule_free", 8, 0.1, 0)
    result, _ = trainer.run(cell, METHODS[cell.method])
    ((params, model_state),) = seen
    program = trainer._program
    start = program.initial_state(cell, METHODS[cell.method], None).params
    assert result["AP"] == 0.5
    assert not np.allclose(params["head"]["w"], start["head"]["w"])
    # 6 micro-batch pairs of training, then 64 pictures by 4.
    assert float(model_state["steps"]) == 6 * 2 + 16


def test_muon_takes_a_convolution_as_one_matrix():
    """Its update has singular values near each other, which AdamW's has not."""
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 4, 8))
    grads = {"w": kernel * jnp.array([10.0, 1, 1, 1, 1, 1, 1, 0.1]), "b": jnp.ones(8)}
    params = {"w": kernel, "b": jnp.zeros(8)}
    tx = METHODS["muon"].make_tx(optax.constant_schedule(0.1))
    step = jax.jit(lambda g, p: tx.update(g, tx.init(p), p)[0])
    updates = step(grads, params)
    values = np.linalg.svd(updates["w"].reshape(36, 8), compute_uv=False)
    assert values.max() < 2 * values.min()
    # A bias goes to Adam, whose first step, with Nesterov's look ahead, is 1.5 rates.
    np.testing.assert_allclose(np.abs(updates["b"]), 0.147, rtol=1e-2)


def test_work_trains_what_is_wanted_and_goes_on_where_it_stopped(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(program_module, "build_detector", little_detector)
    runs, images = Runs(tmp_path / "tiny"), tmp_path / "images"
    sweep = Sweep(METHODS["adamw"], 8, places=(0, 1))

    def wanted(runs):
        return [sweep.cell(place) for place in sweep.places]

    assert work(wanted, runs, SCALE, METHODS, images, limit=1) == 1
    assert "1 of 2 known cells done" in capsys.readouterr().out
    first = runs.path(sweep.cell(0)) / "result.json"
    before = first.stat().st_mtime_ns
    assert work(wanted, runs, SCALE, METHODS, images) == 1
    assert first.stat().st_mtime_ns == before
    assert work(wanted, runs, SCALE, METHODS, images) == 0
    kept = runs.result(sweep.cell(1))
    assert kept["versions"]["jax"] and kept["commit"]
    assert {p.name for p in first.parent.iterdir()} >= {"curve.npz", "config.json"}
