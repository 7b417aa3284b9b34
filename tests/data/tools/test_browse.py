"""The contact sheet and the table of a data set."""

import subprocess
import sys
import types
from pathlib import Path

import cv2
import numpy as np

from agvm_jax.data.annotations.segments import Segments, store_segments
from agvm_jax.data.augment.augmentation import Resizing
from agvm_jax.data.dataset import open_dataset
from agvm_jax.data.pipeline import eval_batches
from agvm_jax.data.tools import browse
from agvm_jax.data.tools.browse import draw_samples, samples, table
from agvm_jax.data.tools.label_table import label_table
from configs import base

ROOT = Path(__file__).parents[3]


def test_samples_show_boxes_masks_and_labels(data_config):
    """What is drawn changes the image where it is drawn, and only there."""
    data_config.shapes.stuff = True
    data_config.mask_size = 14
    dataset = open_dataset(data_config)

    def draw(semantic, masks):
        data_config.semantic, data_config.mask_size = semantic, masks
        (batch, *_) = eval_batches(
            dataset.val, image_size=(64, 64), batch_size=4, data_config=data_config
        )
        return batch, draw_samples(batch, dataset, semantic)

    batch, plain = draw("none", 0)
    _, masked = draw("none", 14)
    _, labelled = draw("all", 0)
    _, both = draw("all", 14)
    assert all(image.shape == (480, 360, 3) for image in plain)  # without padding
    for row in range(4):
        changed = (plain[row] != masked[row]).any(axis=2)
        inside = np.zeros_like(changed)
        for x1, y1, x2, y2 in batch.boxes[row][batch.valid[row]] * 7.5:
            inside[int(y1) : int(y2) + 2, int(x1) : int(x2) + 2] = True
        assert changed.any() == batch.valid[row].any()
        assert not changed[~inside].any()
        assert (plain[row] != labelled[row]).any(axis=2).mean() > 0.5
        changed = (labelled[row] != both[row]).any(axis=2)
        assert changed.any() and not changed[~inside].any()


def test_the_table_counts_objects_and_sizes_and_leaves_crowds_out(
    write_coco, two_images
):
    source = open_dataset(write_coco(two_images)).train
    first, header, *rows = table(source, (40, 60))
    assert first.startswith("train: objects in 2 of 2 images")
    assert "median side" in header
    # ape: 4 x 4 at 2.5 times its size; zebra: 10 x 5 at twice; the crowd is no row.
    assert [row.split()[:4] for row in rows] == [
        ["zebra", "1", "1", "14.1"],
        ["ape", "1", "1", "10.0"],
    ]
    two_images["categories"].append({"id": 95, "name": "yak"})
    source = open_dataset(write_coco(two_images)).train
    assert list(table(source, (40, 60)))[-1] == "  without an object: yak"


def test_the_table_follows_the_rule_of_resizing_in_either_frame(write_coco, two_images):
    two_images["images"][1].update(height=12, width=8)
    source = open_dataset(write_coco(two_images)).train
    # ape: 4 x 4 in 12 x 8, zebra: 10 x 5 in 20 x 30; shorter sides become 40.
    *_, zebra, ape = table(source, (40, 60), Resizing((40,)), turned=True)
    assert zebra.split()[3] == "14.1" and ape.split()[3] == "20.0"
    *_, ape = table(source, (40, 60), Resizing((40,)))
    assert ape.split()[3] == "13.4"  # in a frame 40 high: 40 x 27


class Labelled:
    """A split of the images given by their segments."""

    def __init__(self, split, images):
        self.card, self.images = split.card, images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        numbers, classes = self.images[index]
        crowd = np.zeros(len(classes), bool)
        return store_segments(Segments(np.array(numbers), np.array(classes), crowd))


def test_labels_are_counted_in_images_and_pixels(data_config):
    data_config.shapes.stuff = True
    split = Labelled(
        open_dataset(data_config).train,
        # Two circles and clouds; clouds, void, and tiles that nothing shows.
        [([[1, 2, 3, 3]], [0, 0, 3]), ([[1, 1, 1, 0]], [3, 5])],
    )
    first, header, *rows, missing = label_table(split)
    assert first == "train: labels in 2 of 2 images" and "share of pixels" in header
    assert [row.split() for row in rows] == [
        ["clouds", "2", "62.50%"],
        ["circle", "1", "25.00%"],
        ["(void)", "1", "12.50%"],
    ]
    assert missing == "  without a pixel: square, triangle, waves, tiles"
    assert next(label_table(split, most=1)) == "train: labels in 1 of 2 images"


def test_the_sheet_shows_both_orientations(write_coco, two_images):
    config = base.get_config()
    config.data = write_coco(two_images)
    config.data.orientation_group = 64
    batches = samples(open_dataset(config.data).train, (40, 60), 16, config)
    assert sum(len(batch.image) for batch in batches) == 16
    assert {batch.image.shape[1:3] for batch in batches} == {(40, 60), (60, 40)}
    assert config.data.orientation_group == 64


def test_the_command_writes_a_sheet(tmp_path):
    command = [sys.executable, "-m", "agvm_jax.data.tools.browse", "--images=3"]
    command += ["--config=configs/quickstart.py", f"--output={tmp_path}/sheet.png"]
    command += [f"--config.data.cache_dir={tmp_path}/cache"]
    command += ["--config.data.shapes.stuff=True", "--config.data.semantic=all"]
    small = ["--config.data.shapes.train_images=4", "--config.data.shapes.val_images=2"]
    run = subprocess.run(command + small, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "shapes: 3 classes" in run.stdout and "circle" in run.stdout
    assert "labels in 4 of 4 images" in run.stdout and "clouds" in run.stdout
    assert min(cv2.imread(f"{tmp_path}/sheet.png").shape[:2]) > 400


def test_the_command_says_what_is_wrong(monkeypatch, capsys):
    config = base.get_config()
    config.data.name = "coco"
    flags = types.SimpleNamespace(config=config, images=3, output="sheet.png")
    monkeypatch.setattr(browse, "FLAGS", flags)
    assert browse.main([]) == 2
    assert capsys.readouterr().err.startswith("error: config.data.root is empty")
