"""The loop on a toy: bad steps, signals between micro-batches, what is kept."""

import dataclasses
import os
import signal
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agvm_jax.optim.modules import label_tree
from agvm_jax.optim.noise import noise_init
from agvm_jax.structures import Batch
from agvm_jax.training import mesh as mesh_lib
from agvm_jax.training.batching import plan_batches
from agvm_jax.training.loop import Experiment, train_and_evaluate
from agvm_jax.training.metrics import read_metrics
from agvm_jax.training.recipes import build_optimizer
from agvm_jax.training.state import create_state
from agvm_jax.training.step import TrainStep
from agvm_jax.training.watch import TrainingStopped
from configs import base

ROWS = 4


def loss(params, model_state, batch, key):
    del key
    features = batch.boxes[:, 0]
    error = jnp.tanh(features @ params["backbone"]) @ params["head"] - 1.0
    value = jnp.mean(error**2)
    return value, (model_state, {"square": value})


def make_batch(number, bad=()):
    rng = np.random.default_rng(number)
    boxes = rng.normal(size=(ROWS, 1, 4)).astype(np.float32)
    if number in bad:
        boxes[0] = np.nan
    return Batch(
        image=np.zeros((ROWS, 1, 1, 3), np.uint8),
        image_size=np.ones((ROWS, 2), np.int32),
        image_id=ROWS * number + np.arange(ROWS),
        boxes=boxes,
        classes=np.zeros((ROWS, 1), np.int32),
        valid=np.ones((ROWS, 1), bool),
        crowd=np.zeros((ROWS, 1), bool),
    )


class Stream:
    """Numbered batches; some of them bad, and one sends a signal when it is read."""

    def __init__(self, first, bad=(), signal_at=None):
        self.counters = {"unreadable_images": 0}
        self.number, self._bad, self._signal_at = first, bad, signal_at

    def __next__(self):
        if self.number == self._signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        self.number += 1
        return make_batch(self.number - 1, self._bad)

    def close(self):
        pass


def make_experiment(folder, steps=6, micro_batches=1, **stream):
    config = base.get_config()
    config.optim.lr_rule = "none"
    config.optim.warmup_steps = 0
    config.train.log_every_steps = 1
    config.train.tensorboard = False
    config.train.progress = False
    config.train.max_skipped_steps = 2
    batch_size = ROWS * micro_batches
    recipe = build_optimizer(
        config.optim,
        config.agvm,
        batch_size=batch_size,
        total_steps=steps,
        steps_per_epoch=2,
    )
    mesh = mesh_lib.data_mesh(jax.devices()[:2])
    plan = plan_batches(batch_size, 2, ROWS // 2, estimator="halves")
    params = {"backbone": jnp.full((4, 3), 0.1), "head": jnp.full(3, 0.1)}

    def initial_state():
        state = create_state(
            params, {}, recipe.tx.init(params), noise_init(params), seed=0
        )
        return mesh_lib.put_replicated(mesh, state)

    return Experiment(
        folder=folder,
        mesh=mesh,
        plan=plan,
        total_steps=steps,
        steps_per_epoch=2,
        initial_state=initial_state,
        step=TrainStep(loss, recipe, plan, mesh, label_tree(params)),
        schedule=recipe.schedule,
        train_batches=lambda first: Stream(first, **stream),
        eval_batches=list,
        predict=lambda state, batch: None,
        evaluate=lambda state: {"AP": float(state.step) / 10},
        evaluator=SimpleNamespace(),
        settings=config.train,
    )


def losses(folder):
    lines = read_metrics(folder / "metrics.jsonl")
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def test_a_bad_step_is_skipped_and_told_with_module_and_images(tmp_path, capsys):
    outcome = train_and_evaluate(make_experiment(tmp_path, bad=(2,)))
    assert outcome.status == "finished" and outcome.step == 6
    out = capsys.readouterr().out
    assert "step 3 was skipped" in out and "backbone, head" in out
    assert "image ids 8, 9, 10, 11" in out
    assert "step 3 was skipped" in (tmp_path / "log.txt").read_text()
    assert losses(tmp_path)[3] is None and losses(tmp_path)[6] > 0


def test_too_many_bad_steps_in_a_row_stop_the_run(tmp_path):
    with pytest.raises(TrainingStopped) as error:
        train_and_evaluate(make_experiment(tmp_path, bad=(2, 3, 4)))
    for words in (
        "3 steps in a row",
        "max_skipped_steps=2",
        "step 5",
        "16, 17, 18, 19",
    ):
        assert words in str(error.value)
    # What was saved before is good, and the run goes on from there.
    outcome = train_and_evaluate(make_experiment(tmp_path))
    assert outcome.status == "finished"
    assert [step for step, value in losses(tmp_path).items() if value is None] == [3, 4]


@pytest.mark.parametrize("signal_at", [5, 6])
def test_a_signal_between_micro_batches_loses_no_more_than_that_step(
    tmp_path, signal_at
):
    """Batches 4 to 7 are step 2; the signal comes with its second or third batch."""
    settings = dict(steps=3, micro_batches=4)
    straight = tmp_path / "straight"
    broken = tmp_path / "broken"
    for folder in (straight, broken):
        folder.mkdir()
    train_and_evaluate(make_experiment(straight, **settings))
    outcome = train_and_evaluate(
        make_experiment(broken, signal_at=signal_at, **settings)
    )
    assert (outcome.status, outcome.step) == ("interrupted", 1)
    outcome = train_and_evaluate(make_experiment(broken, **settings))
    assert (outcome.status, outcome.step) == ("finished", 3)
    assert losses(broken) == losses(straight)


def test_batches_of_two_shapes_are_one_run(tmp_path):
    """As landscape and portrait images make them, also within a step."""

    class Turning(Stream):
        def __next__(self):
            batch = super().__next__()
            shape = (ROWS, 2, 4, 3) if self.number % 3 else (ROWS, 4, 2, 3)
            return dataclasses.replace(batch, image=np.zeros(shape, np.uint8))

    straight, turning = tmp_path / "straight", tmp_path / "turning"
    for folder in (straight, turning):
        folder.mkdir()
    train_and_evaluate(make_experiment(straight, steps=3, micro_batches=4))
    experiment = make_experiment(turning, steps=3, micro_batches=4)
    experiment = dataclasses.replace(experiment, train_batches=Turning)
    assert train_and_evaluate(experiment).status == "finished"
    assert losses(turning) == losses(straight)  # this loss does not look at images


def test_a_finished_run_is_only_evaluated(tmp_path):
    train_and_evaluate(make_experiment(tmp_path, steps=2))
    before = (tmp_path / "metrics.jsonl").read_bytes()
    outcome = train_and_evaluate(make_experiment(tmp_path, steps=2))
    assert outcome.status == "was finished" and outcome.results == {"AP": 0.2}
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
