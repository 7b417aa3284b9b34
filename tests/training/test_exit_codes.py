"""What train.py answers to the one who started it: a toy in the place of a detector."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from absl import flags
from toy_run import make_experiment

import train

ROOT = Path(__file__).parents[2]


@pytest.fixture
def main(monkeypatch, tmp_path):
    """Returns a function: train.main with a toy of these settings; its exit code."""

    def main(**settings):
        monkeypatch.setattr(train, "parse", lambda arguments: None)
        monkeypatch.setattr(
            train, "build", lambda config: make_experiment(tmp_path, **settings)
        )
        monkeypatch.setattr(train, "report", lambda *arguments: None)
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


LIMITED = """
import resource, signal, sys
from pathlib import Path
from toy_run import make_experiment
from agvm_jax.training.loop import train_and_evaluate
from agvm_jax.training.storage import StorageError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
try:
    train_and_evaluate(make_experiment(Path(sys.argv[1]), steps=6))
except StorageError as error:
    print(error)
"""


def test_a_save_that_fails_midway_is_told_without_tracebacks(tmp_path):
    """In a process of its own, for the limit of file sizes and what threads print."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path / "run"],
        env={
            **os.environ,
            "JAX_NUM_CPU_DEVICES": "2",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]),
        },
        capture_output=True,
        text=True,
    )
    assert "step 6 could not be saved: File too large" in done.stdout
    assert "the state after step 6 could not be stored" in done.stdout
    assert "Traceback" not in done.stderr and "closed" not in done.stderr
