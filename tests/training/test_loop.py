"""The loop on a toy: bad steps, signals between micro-batches, what is kept."""

import dataclasses
import gc

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from toy_run import ROWS, Stream, comparable, losses, make_experiment, replaced

from agvm_jax.training.loop import train_and_evaluate
from agvm_jax.training.restoring import saved_steps
from agvm_jax.training.stop_signal import StopSignal
from agvm_jax.training.watch import TrainingStopped


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
    train_and_evaluate(make_experiment(straight, **settings))
    outcome = train_and_evaluate(
        make_experiment(broken, signal_at=signal_at, **settings)
    )
    assert (outcome.status, outcome.step) == ("interrupted", 1)
    outcome = train_and_evaluate(make_experiment(broken, **settings))
    assert (outcome.status, outcome.step) == ("finished", 3)
    assert losses(broken) == losses(straight)


def test_the_rate_that_is_logged_is_the_one_that_was_used(tmp_path):
    """Plain SGD: the step's length is the rate times the gradient's norm."""
    settings = {
        "agvm.enabled": False,
        "optim.name": "sgd",
        "optim.momentum": 0.0,
        "optim.weight_decay": 0.0,
        "optim.warmup_steps": 4,
        "optim.lr": 1.0,
    }
    experiment = make_experiment(tmp_path, steps=1, settings=settings)
    before = experiment.start.state().params
    after = train_and_evaluate(experiment).state.params
    moved = jax.tree.map(lambda a, b: float(((a - b) ** 2).sum()), after, before)
    line = comparable(tmp_path)[0]
    length = sum(jax.tree.leaves(moved)) ** 0.5
    np.testing.assert_allclose(length, line["lr"] * line["grad_norm"], rtol=1e-3)


def test_an_evaluation_does_not_hold_up_a_stop(tmp_path, monkeypatch):
    monkeypatch.setattr(StopSignal, "reached", lambda self, step: step == 2)
    outcome = train_and_evaluate(make_experiment(tmp_path))
    assert (outcome.status, outcome.step, outcome.results) == ("interrupted", 2, {})


def test_batches_of_two_shapes_are_one_run(tmp_path):
    """As landscape and portrait images make them, also within a step."""

    class Turning(Stream):
        def __next__(self):
            batch = super().__next__()
            shape = (ROWS, 2, 4, 3) if self.number % 3 else (ROWS, 4, 2, 3)
            return dataclasses.replace(batch, image=np.zeros(shape, np.uint8))

    straight, turning = tmp_path / "straight", tmp_path / "turning"
    train_and_evaluate(make_experiment(straight, steps=3, micro_batches=4))
    experiment = make_experiment(turning, steps=3, micro_batches=4)
    experiment = replaced(experiment, "data", train=Turning)
    assert train_and_evaluate(experiment).status == "finished"
    assert losses(turning) == losses(straight)  # this loss does not look at images


def test_a_finished_run_is_only_evaluated(tmp_path):
    train_and_evaluate(make_experiment(tmp_path, steps=2))
    before = (tmp_path / "metrics.jsonl").read_bytes()
    outcome = train_and_evaluate(make_experiment(tmp_path, steps=2))
    assert outcome.status == "was finished" and outcome.results == {"score": 0.2}
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def run(folder, stop_at=None, **settings):
    """Runs the toy in a folder; as if a signal had come in step ``stop_at``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StopSignal, "reached", lambda self, step: step == stop_at)
        return train_and_evaluate(make_experiment(folder, **settings))


@pytest.mark.parametrize("stop_at", [4, 5])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path, stop_at):
    """Also where an evaluation was due at that step, and the best with it; and where
    the stop lies within a window of the log.
    """
    settings = {
        "train.log_every_steps": 3,
        "train.keep_checkpoints": 1,
        "train.trackers": "tensorboard",
    }
    scores = {2: 0.3, 4: 0.9, 6: 0.2, 8: 0.1}
    options = dict(settings=settings, steps=8, scores=scores)
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    run(straight, **options)
    outcome = run(broken, stop_at=stop_at, **options)
    assert (outcome.status, outcome.step) == ("interrupted", stop_at)
    assert run(broken, **options).status == "finished"
    assert comparable(broken) == comparable(straight)
    for folder in (straight, broken):
        assert saved_steps(folder / "checkpoints") == [4, 8]
    assert [line["step"] for line in comparable(broken)] == [2, 3, 4, 6, 6, 8, 8]


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(tmp_path, capsys):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    run(straight)
    run(broken, stop_at=4)
    (broken / "checkpoints" / "4" / "state" / "manifest.ocdbt").write_bytes(b"")
    assert run(broken).status == "finished"
    assert "step 4 is damaged" in capsys.readouterr().out
    assert comparable(broken) == comparable(straight)
    assert "step 4 is damaged" in (broken / "log.txt").read_text()


def test_that_everything_is_saved_is_said_after_it_is(tmp_path):
    run(tmp_path, stop_at=3)
    log = (tmp_path / "log.txt").read_text()
    assert log.index("the checkpoint of step 3 is on disk") < log.index("everything is")


def test_a_run_that_goes_on_holds_its_state_once(tmp_path, monkeypatch):
    """What was saved is restored into shapes, not over a state that was made before."""
    run(tmp_path, stop_at=2)
    live = []
    read = ocp.StandardCheckpointer.restore

    def restore(*arguments):
        live.append(len(jax.live_arrays()))
        return read(*arguments)

    monkeypatch.setattr(ocp.StandardCheckpointer, "restore", restore)
    experiment = make_experiment(tmp_path)
    state = jax.tree.leaves(jax.eval_shape(experiment.start.state))
    gc.collect()
    before = len(jax.live_arrays())
    assert train_and_evaluate(experiment).status == "finished"
    assert live[0] - before < len(state) / 2


def test_a_noise_scale_that_was_not_measured_is_not_one_without_bound(tmp_path):
    """null in the log means no bound; what nobody measured is not there."""
    found = {}
    for measured in (True, False):
        folder = tmp_path / str(measured)
        experiment = make_experiment(folder, steps=2)
        if not measured:
            experiment.model.step.measures = lambda index: False
        train_and_evaluate(experiment)
        lines = [line for line in comparable(folder) if "loss" in line]
        found[measured] = ["noise_scale/all" in line for line in lines]
    assert found == {True: [True, True], False: [False, False]}
