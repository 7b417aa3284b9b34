"""The data benchmark compares like with like, and its command runs anywhere."""

import argparse
import json
import subprocess
import threading

import numpy as np
import pytest

from agvm_jax.data.pipeline import train_batches
from benchmarks import data
from benchmarks.data import First, make_jpegs, make_step, open_source, stages
from benchmarks.torchvision_loader import MEAN, STD, Loader
from benchmarks.turns import Seconds


@pytest.fixture
def arguments(tmp_path):
    make_jpegs(tmp_path / "set", 8)
    return argparse.Namespace(
        root=str(tmp_path / "set"),
        cache=str(tmp_path / "cache"),
        images=8,
        batch_size=2,
        mask_size=0,
        kind="numpy",
    )


def test_both_sides_make_the_same_images_and_boxes(arguments):
    source, config = open_source(arguments)
    assert isinstance(source, First) and len(source) == 8
    config.flip = 0.0
    stream = train_batches(
        source, image_size=(800, 1344), batch_size=2, seed=0, data_config=config
    )
    peer = Loader(arguments)
    entries = {image["id"]: image for image in peer.files.images}
    shapes = set()
    for _ in range(4):
        ours = next(stream)
        shapes.add(ours.image.shape[1:3])
        theirs, boxes = peer.batch([entries[i] for i in ours.image_id], flip=0.0)
        theirs = (theirs * STD + MEAN) * 255
        for row in range(2):
            # Sizes are rounded here and cut off there: up to a pixel apart.
            height, width = ours.image_size[row]
            rows, columns = height - 4, width - 4
            error = ours.image[row, :rows, :columns] - theirs[row, :rows, :columns]
            assert np.abs(error).mean() < 4
            count = ours.valid[row].sum()
            assert count == len(boxes[row])
            np.testing.assert_allclose(ours.boxes[row, :count], boxes[row], atol=1.5)
    stream.close()
    assert len(shapes) == 2


def test_stages_are_told_of_either_side(arguments):
    ours = stages(arguments)
    peer = Loader(arguments)
    peer.epoch()
    assert "decode" in ours and "decode" in peer.spent
    assert len(ours) == 7 and len(peer.spent) == 7
    assert all(ms >= 0 for ms in ours.values()) and sum(ours.values()) > 0


def test_a_step_takes_as_many_images_as_there_are_and_leaves_no_thread(arguments):
    arguments.float32 = False
    step, images = make_step(arguments)
    assert images == 8
    step()
    after_one = threading.active_count()
    for _ in range(3):
        step()
    assert threading.active_count() <= after_one


def test_the_command_prints_rates_ratios_and_stages(monkeypatch, capsys, arguments):
    """With workers that answer at once: theirs takes four times as long as ours."""

    class Fake:
        def __init__(self, command):
            self.peer = any("loader" in word for word in command)

        def run(self):
            return Seconds(0.4, 0.2) if self.peer else Seconds(0.1, 0.05)

        def close(self):
            pass

    def run(command, **_):
        table = json.dumps({"decode": 1.5, "(not done)": 9.0})
        return subprocess.CompletedProcess(command, 0, table + "\n", "")

    monkeypatch.setattr(data, "Worker", Fake)
    monkeypatch.setattr(data.subprocess, "run", run)
    arguments.peer_python, arguments.turns, arguments.core = "python", 3, 0
    arguments.float32 = False
    data.compare(arguments)
    text = capsys.readouterr().out
    assert "ours                 160.00 images/s" in text
    assert "ours / torchvision, by processor: 4.00" in text
    assert "torchvision: ms an image, 1.50 in all" in text
