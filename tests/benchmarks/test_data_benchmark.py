"""The data benchmark compares like with like, and its command runs anywhere."""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agvm_jax.data.pipeline import train_batches
from benchmarks.data import First, make_jpegs, open_source
from benchmarks.torchvision_loader import MEAN, STD, Loader

ROOT = Path(__file__).parents[2]


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


def test_both_sides_make_the_same_pictures_and_boxes(arguments):
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


def test_the_command_prints_rates_ratios_and_stages():
    command = [sys.executable, "-m", "benchmarks.data", "--images=4", "--turns=1"]
    command += ["--batch-size=2"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert run.returncode == 0, run.stderr
    for words in ("images/s", " / ", "by processor", "decode", "resize", "normalise"):
        assert words in run.stdout
