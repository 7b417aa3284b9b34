"""The loop on a toy: bad steps, signals between micro-batches, what is kept."""

import dataclasses

import numpy as np
import pytest
from toy_run import ROWS, Stream, losses, make_experiment

from agvm_jax.training.loop import train_and_evaluate
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
