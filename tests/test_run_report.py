"""What a run tells at its end about the batch it used."""

import json
import math

import numpy as np
from PIL import Image

from agvm_jax.report import typical_noise_scales, write_pictures
from agvm_jax.structures import Batch, Predictions


def examples(asked):
    """Batches of two images and a row that only fills up, of different greys."""
    for first in (10, 20, 30):
        asked.append(first)
        shade = np.array([first, 0, first + 1])[:, None, None, None]
        yield (
            Batch(
                np.broadcast_to(shade, (3, 32, 48, 3)).astype(np.uint8),
                np.full((3, 2), [32, 48]),
                np.array([first, -1, first + 1]),
                np.zeros((3, 1, 4)),
                np.zeros((3, 1), int),
                np.zeros((3, 1), bool),
                np.zeros((3, 1), bool),
            ),
            Predictions(
                np.zeros((3, 1, 4)),
                np.zeros((3, 1)),
                np.full((3, 1), -1),
                np.zeros((3, 1), bool),
            ),
        )


def test_as_many_images_are_drawn_as_asked_for_and_no_more_batches_predicted(tmp_path):
    asked = []
    paths = write_pictures(tmp_path, 7, examples(asked), ("a",), 3)
    assert asked == [10, 20]
    names = ["image_10.png", "image_11.png", "image_20.png", "detections.png"]
    assert paths == [tmp_path / "eval" / "7" / name for name in names]
    for path, shade in zip(paths[:3], (10, 11, 20), strict=True):
        with Image.open(path) as image:
            assert image.getpixel((200, 150)) == (shade,) * 3
    with Image.open(paths[3]) as sheet:
        assert sheet.width > 2 * 480
    assert write_pictures(tmp_path, 8, examples(asked), ("a",), 0) == []
    assert asked == [10, 20] and not (tmp_path / "eval" / "8").exists()
    assert write_pictures(tmp_path, 9, iter(()), ("a",), 3) == []


def test_the_noise_scale_told_is_the_median_over_the_run(tmp_path):
    values = [10.0, 30.0, 20.0, None, 1000.0]
    lines = [
        {"step": i, "noise_scale/all": v, "noise_scale/fpn": None}
        for i, v in enumerate(values)
    ]
    lines.append({"step": 9, "eval/AP": 0.5})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text)
    scales = typical_noise_scales(tmp_path)
    assert scales == {"all": 30.0, "fpn": math.inf}


def test_a_run_that_measured_nothing_tells_nothing(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    assert typical_noise_scales(tmp_path) == {}
