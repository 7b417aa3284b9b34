"""Checkpoints by minutes, the watchdog and the profile, in runs of a toy."""

import logging
import time

import jax
import pytest
from toy_run import make_experiment, replaced

from agvm_jax.training import mesh as mesh_lib
from agvm_jax.training.loop import train_and_evaluate
from agvm_jax.training.profile_window import check_profile
from agvm_jax.training.restoring import saved_steps
from agvm_jax.training.save_times import SaveTimes
from agvm_jax.training.watchdog import Watchdog


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def times(clock, alone, every_steps=1000):
    mesh = mesh_lib.data_mesh(jax.devices()[:2])
    return SaveTimes(mesh, every_steps, 2.0, alone=alone, now=clock)


def test_one_process_saves_after_the_step_at_which_the_time_is_over(clock):
    one = times(clock, alone=True, every_steps=3)
    clock.now = 119
    assert [one.due(step, False) for step in (1, 2, 3, 4)] == [0, 0, 1, 0]
    clock.now = 120
    assert one.due(4, False)
    one.saved()
    assert not one.due(5, True)


def test_several_agree_at_one_windows_end_and_save_at_the_next(clock):
    some = times(clock, alone=False)
    assert not some.due(1, True)
    clock.now = 121
    assert not some.due(2, True)  # what was asked at step 1
    clock.now = 0  # what this clock says between two windows tells nothing
    assert not some.due(3, False)
    assert some.due(4, True)
    some.saved()
    assert not some.due(5, True)
    assert not some.due(6, True)


def test_only_the_first_process_says_that_it_is_time(clock, monkeypatch):
    other = times(clock, alone=False)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    clock.now = 121
    assert [other.due(step, True) for step in (1, 2, 3)] == [0, 0, 0]


@pytest.mark.slow  # a profile takes long to be written
def test_a_run_saves_by_minutes_and_profiles_the_steps_asked_for(tmp_path):
    settings = {
        "train.checkpoint_every_epochs": 0.0,
        "train.checkpoint_every_minutes": 1e-9,
        "train.profile_steps": (1, 2),
    }
    train_and_evaluate(make_experiment(tmp_path / "run", steps=3, settings=settings))
    assert saved_steps(tmp_path / "run" / "checkpoints") == [1, 2, 3]
    profile = tmp_path / "run" / "profile" / "process0"
    assert list(profile.rglob("*.xplane.pb")) and list(profile.rglob("perfetto*.gz"))


def test_what_hangs_is_told_with_the_stacks(tmp_path):
    folder, settings = tmp_path / "run", {"train.hang_seconds": 1.0}
    slow = make_experiment(folder, steps=2, settings=settings)

    def evaluate(state):
        time.sleep(1.8)
        return {"score": 0.0}

    train_and_evaluate(replaced(slow, "evaluation", run=evaluate))
    told = (folder / "hang_process0.txt").read_text()
    sentence = "process 0 of 1: the evaluation after step 2 has not ended in 1 s"
    assert sentence in told and sentence in (folder / "log.txt").read_text()
    assert "in evaluate" in told and "test_hosts_in_the_loop.py" in told


def test_it_ends_the_process_where_that_is_asked_for(tmp_path, monkeypatch):
    ended = []
    monkeypatch.setattr("os._exit", ended.append)
    dog = Watchdog(tmp_path, 0.05, True, logging.getLogger("test"))
    time.sleep(0.5)
    dog.begins("step 2")
    dog.close()
    assert ended[:1] == [1]


def test_what_goes_on_is_not_told(tmp_path):
    dog = Watchdog(tmp_path, 0.5, False, logging.getLogger("test"))
    for step in range(8):
        dog.begins(f"step {step}")
        time.sleep(0.1)
    dog.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("steps", [(5,), (-1, 2), (1, 2, 3)])
def test_a_profile_is_a_pair_of_numbers_of_steps(steps):
    with pytest.raises(ValueError, match="profile_steps=.*such as"):
        check_profile(steps)
