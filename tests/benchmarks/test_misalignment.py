"""What benchmarks.misalignment makes of a run's numbers; training is train.py's."""

import json

import numpy as np
import pytest

from benchmarks import misalignment
from benchmarks.misalignment import IMAGES, WINDOWS, modulation, read_csv, read_run
from configs import faster_rcnn_shapes


@pytest.fixture
def curves(tmp_path):
    """A run at batch 512: 16 steps, a window each; phi of the head rises."""
    with open(tmp_path / "metrics.jsonl", "w") as lines:
        for step in range(1, IMAGES // 512 + 1):
            line = {"step": step, "phi/backbone": 1.0, "phi/head": step / 100}
            print(json.dumps(line), file=lines)
        print(json.dumps({"step": 16, "eval/AP": 0.5}), file=lines)
        print(json.dumps({"note": "no step"}), file=lines)
    return {("boxes", 512): read_run(tmp_path, 512)}


def test_windows_hold_equally_many_images(curves):
    np.testing.assert_allclose(
        curves["boxes", 512]["head"], np.arange(1, WINDOWS + 1) / 100
    )


def test_mu_is_the_root_of_the_ratio(curves):
    mu = modulation(curves["boxes", 512])
    np.testing.assert_allclose(mu["backbone"], 1.0)
    np.testing.assert_allclose(mu["head"][[0, 3]], [10.0, 5.0])
    assert modulation({"backbone": np.ones(1), "head": np.zeros(1)})["head"] < 32


def test_the_csv_is_read_as_it_was_written(curves, tmp_path):
    misalignment.write_csv(curves, tmp_path / "deep" / "a.csv")
    found = read_csv(tmp_path / "deep" / "a.csv")
    assert found.keys() == curves.keys()
    for module, values in curves["boxes", 512].items():
        np.testing.assert_allclose(found["boxes", 512][module], values, rtol=1e-3)
    assert read_csv(tmp_path / "none.csv") == {}
    assert "| boxes | 512 | 1, 1.00 | 0.085," in misalignment.table(found)


def test_pictures_have_a_row_for_each_task_that_ran(curves, tmp_path):
    misalignment.draw({}, tmp_path / "empty.png", "phi")
    assert not (tmp_path / "empty.png").exists()
    misalignment.draw(curves, tmp_path / "a.png", "phi")
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_every_setting_is_a_key_of_the_config():
    config = faster_rcnn_shapes.get_config()
    for key in misalignment.SETTINGS:
        section = config
        for name in key.split("."):
            assert name in section, key
            section = section[name]
