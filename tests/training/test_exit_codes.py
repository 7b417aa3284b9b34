"""What train.py answers to the one who started it: a toy in the place of a detector."""

from types import SimpleNamespace

import pytest
from absl import flags
from toy_run import make_experiment

import train


@pytest.fixture
def main(monkeypatch, tmp_path):
    """Returns a function: train.main with a toy of these settings; its exit code."""

    def main(**settings):
        config = SimpleNamespace(data=None)
        monkeypatch.setattr(train, "parse", lambda arguments: config)
        monkeypatch.setattr(train, "open_dataset", lambda data: None)
        monkeypatch.setattr(
            train, "build", lambda config, data: make_experiment(tmp_path, **settings)
        )
        monkeypatch.setattr(train, "finish", lambda *arguments: None)
        flags.FLAGS(["train.py"])
        return int(train.main(["train.py"]))

    return main


def test_a_finished_run_is_0_also_the_second_time(main):
    assert main(steps=2) == 0
    assert main(steps=2) == 0


def test_an_interrupted_run_is_75_and_goes_on(main, capsys):
    assert main(signal_at=3) == 75
    assert "stopped by a signal" in capsys.readouterr().out
    assert main() == 0


def test_a_run_without_finite_steps_is_3(main, capsys):
    assert main(bad=(2, 3, 4)) == 3
    assert "3 steps in a row" in capsys.readouterr().err


def test_a_last_state_that_could_not_be_stored_is_1(main, capsys, monkeypatch):
    full = SimpleNamespace(total=1, used=1, free=0)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: full)
    assert main(steps=3) == 1
    out, err = capsys.readouterr()
    assert "the checkpoint of step 2 could not be saved" in out
    assert err == "error: the state after step 3 could not be stored\n"
