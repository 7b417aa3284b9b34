"""A run that begins with the state of another, and what stopped runs leave for it."""

import logging
import re

import jax
import numpy as np
import pytest
from command_lines import command_line
from toy_run import comparable, losses, make_experiment, replaced

import train
from agvm_jax.training import mesh as mesh_lib
from agvm_jax.training.loop import train_and_evaluate
from agvm_jax.training.restoring import (
    CheckpointMismatch,
    NoGoodCheckpoint,
    saved_steps,
)
from agvm_jax.training.start_from import Source, find_source, restore_source
from agvm_jax.training.state import random_key
from agvm_jax.training.stop_signal import StopSignal
from agvm_jax.training.watch import TrainingStopped
from models.weights.files import read_weights

LOG = logging.getLogger("test")


def run(folder, **settings):
    return train_and_evaluate(make_experiment(folder, **settings))


@pytest.fixture(scope="module")
def former(tmp_path_factory):
    """A finished run of six steps, the last of which was skipped."""
    folder = tmp_path_factory.mktemp("former") / "run"
    run(folder, bad=(5,))
    return folder


def test_with_the_same_keys_it_goes_on_as_the_other_did(former, tmp_path, capsys):
    before = {path: path.stat().st_mtime_ns for path in former.rglob("*")}
    outcome = run(tmp_path, steps=8, source=find_source(f"{former}:2", 8))
    assert (outcome.status, outcome.step) == ("finished", 8)
    assert f"started from step 2 of {former}" in capsys.readouterr().out
    mine, theirs = losses(tmp_path), losses(former)
    assert list(mine) == [3, 4, 5, 6, 7, 8]
    assert [mine[step] for step in (3, 4, 5)] == [theirs[step] for step in (3, 4, 5)]
    assert before == {path: path.stat().st_mtime_ns for path in former.rglob("*")}
    # The evaluation of step 2 was the other run's.
    assert [n["step"] for n in comparable(tmp_path) if "eval/score" in n] == [4, 6, 8]
    # From then on it is a run as any other.
    assert run(tmp_path, steps=9).step == 9


def test_other_keys_take_effect_and_the_clock_is_the_other_runs(former, tmp_path):
    source = find_source(f"{former}:4", 8)
    changed = {"optim.lr": 1.0, "optim.schedule": "constant", "agvm.tau": 1}
    run(tmp_path / "same", steps=8, source=source)
    outcome = run(tmp_path / "other", steps=8, source=source, settings=changed)
    same, other = losses(tmp_path / "same"), losses(tmp_path / "other")
    assert same[5] == other[5] and same[6] != other[6]
    assert int(outcome.state.step) == 8


def test_batches_are_left_out(former, tmp_path):
    """The other run's step 6 had a bad batch; without it the next one is step 6's."""
    source = find_source(f"{former}:4", 8)
    run(tmp_path, steps=8, source=source, skip=2, bad=(4, 5))
    assert all(value is not None for value in losses(tmp_path).values())


def test_what_is_not_carried_over(former):
    experiment = make_experiment(former)
    partition = experiment.model.partition
    like = partition.like(jax.eval_shape(experiment.start.state))
    restored = restore_source(find_source(str(former), 8), like, 3, LOG)
    assert restored.step == 6 and restored.record == {}
    assert int(restored.state.step) == 6 and int(restored.state.skipped) == 0
    np.testing.assert_array_equal(restored.state.key, random_key(3))
    for leaf in jax.tree.leaves(restored.state):
        assert leaf.sharding == mesh_lib.replicated(partition.mesh)


def test_a_source_that_cannot_be_is_told(former, tmp_path):
    with pytest.raises(ValueError, match="there is no checkpoint in"):
        find_source(str(tmp_path), 8)
    with pytest.raises(ValueError, match="no checkpoint of step 3; it has 2, 4, 6"):
        find_source(f"{former}:3", 8)
    with pytest.raises(ValueError, match="that is step 6, and this run ends after 6"):
        find_source(f"{former}", 6)
    assert find_source(f"{former}", 7) == Source(former, 6)


def test_another_model_is_told_of_the_weights_alone(former, tmp_path):
    with pytest.raises(CheckpointMismatch, match="--config.train.init_from=.*weights"):
        run(
            tmp_path,
            steps=8,
            source=find_source(str(former), 8),
            settings={"optim.name": "sgd"},
        )


def test_a_damaged_source_is_left_where_it_is(former, tmp_path):
    other = tmp_path / "former"
    run(other, steps=4)
    (other / "checkpoints" / "4" / "integrity" / "record.json").write_text("{}")
    with pytest.raises(NoGoodCheckpoint, match="damaged.*Steps of others there: 2"):
        run(tmp_path / "new", steps=8, source=find_source(str(other), 8))
    assert saved_steps(other / "checkpoints") == [2, 4]


def test_the_advice_after_a_stop_can_be_followed(tmp_path):
    """Also the second time: the new run meets bad batches further on."""
    folders = [tmp_path / name for name in ("first", "second", "third")]
    bad = (5, 6, 7, 12, 13, 14)
    source, skip = None, 0
    for folder, stood in zip(folders[:2], (6, 12), strict=True):
        with pytest.raises(TrainingStopped) as error:
            run(folder, steps=16, source=source, skip=skip, bad=bad)
        advice = re.search(
            r"--config.train.start_from=(\S+), .*--config.train.skip_steps=(\d+)\.",
            str(error.value),
        )
        source, skip = find_source(advice[1], 16), int(advice[2])
        assert source == Source(folder, stood)
    assert "skip_steps=2 as here, or" in str(error.value)
    outcome = run(folders[2], steps=16, source=source, skip=skip, bad=bad)
    assert outcome.status == "finished" and None not in losses(folders[2]).values()


@pytest.mark.parametrize("how", ["signal", "not finite", "crash"])
def test_weights_are_left_whatever_ended_the_run(tmp_path, monkeypatch, how):
    def crash(state):
        raise OSError("no more")

    experiment = make_experiment(tmp_path, bad=(2, 3, 4) if how == "not finite" else ())
    if how == "signal":
        monkeypatch.setattr(StopSignal, "reached", lambda self, step: step == 3)
        assert train_and_evaluate(experiment).status == "interrupted"
    else:
        if how == "crash":
            experiment = replaced(experiment, "evaluation", run=crash)
        with pytest.raises((TrainingStopped, OSError)):
            train_and_evaluate(experiment)
    weights = read_weights(tmp_path / "weights.safetensors")
    assert all(np.isfinite(value).all() for value in weights.values())


@pytest.fixture
def build(tmp_path):
    """Returns a function: what train.py runs for the tiny config and these keys."""

    def build(*overrides):
        cache = f"--config.data.cache_dir={tmp_path / 'data'}"
        with command_line(cache, *overrides) as argv:
            return train.build(train.parse(argv))

    return build


def test_the_command_line_starts_from_another_run_and_skips(build, former, tmp_path):
    plain = build(f"--config.workdir={tmp_path / 'plain'}")
    skipping = build(
        f"--config.workdir={tmp_path / 'skipping'}",
        f"--config.train.start_from={former}:4",
        "--config.train.skip_steps=2",
        "--config.seed=0",
    )
    assert plain.start.source is None and skipping.start.source == Source(former, 4)
    streams = plain.data.train(6), skipping.data.train(4)
    first, second = (next(stream) for stream in streams)
    for stream in streams:
        stream.close()
    np.testing.assert_array_equal(first.image_id, second.image_id)
    np.testing.assert_array_equal(first.image, second.image)
    with pytest.raises(ValueError, match="skip_steps is 2 there and 3 here"):
        build(
            f"--config.workdir={tmp_path / 'skipping'}",
            f"--config.train.start_from={former}:4",
            "--config.train.skip_steps=3",
        )
    with pytest.raises(ValueError, match="skip_steps=-1 must be 0 or more"):
        build(
            f"--config.workdir={tmp_path / 'negative'}", "--config.train.skip_steps=-1"
        )
