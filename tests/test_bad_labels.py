"""Bad label maps, and detectors of pixels without any: exit code 2 and one sentence."""

import cv2
import numpy as np
import pytest


@pytest.fixture
def labelled(tmp_path):
    """Three images and label PNGs a split, of a set without things."""
    root = tmp_path / "labelled"
    for split in ("train", "val"):
        for kind in (split, f"{split}_labels"):
            (root / kind).mkdir(parents=True)
        for i in range(3):
            image = np.full((40, 60, 3), 60 * i, np.uint8)
            cv2.imwrite(str(root / split / f"{i}.png"), image)
            labels = np.full((40, 60), i % 2, np.uint8)
            cv2.imwrite(str(root / f"{split}_labels" / f"{i}.png"), labels)
    (root / "classes.txt").write_text("sky\nground\n")
    return root


def on_labels(root):
    return (
        "--config.data.name=label_folder",
        f"--config.data.root={root}",
        "--config.data.semantic=all",
    )


def test_stuff_without_things_for_a_panoptic_fpn(complaint, labelled):
    message = complaint(
        *on_labels(labelled),
        "--config.data.mask_size=28",
        "--config.model.detector=panoptic_fpn",
    )
    assert "--config.model.detector=semantic_fpn" in message


def test_a_label_outside_the_classes(complaint, labelled):
    labels = np.full((40, 60), 7, np.uint8)
    cv2.imwrite(str(labelled / "train_labels" / "1.png"), labels)
    message = complaint(*on_labels(labelled), "--config.model.detector=semantic_fpn")
    assert "1.png holds the values [7], but there are 2 classes" in message


def test_labels_of_another_size_than_their_image(complaint, labelled):
    """However many unreadable images may be left out: labels are not unreadable."""
    labels = np.zeros((40, 50), np.uint8)
    cv2.imwrite(str(labelled / "train_labels" / "2.png"), labels)
    message = complaint(*on_labels(labelled), "--config.model.detector=semantic_fpn")
    assert "1 of the 3 images" in message and "'2.png' with 60x40 pixels" in message
    assert "2.png with 50x40: give each a PNG of its own size" in message


def test_a_detector_of_pixels_without_labels(complaint):
    message = complaint("--config.model.detector=semantic_fpn")
    assert "--config.data.semantic=all, or stuff" in message


def test_thresholds_of_the_panoptic_merge(complaint, tmp_path):
    message = complaint("--config.eval.panoptic.overlap_threshold=50.0")
    assert "eval.panoptic.overlap_threshold=50.0 must lie in 0 .. 1" in message
    assert not (tmp_path / "run").exists()


def test_windows_that_leave_gaps(complaint):
    message = complaint(
        "--config.model.detector=semantic_fpn",
        "--config.data.semantic=all",
        "--config.data.shapes.stuff=True",
        "--config.model.test_cfg.mode=slide",
        "--config.model.test_cfg.crop_size=32,32",
        "--config.model.test_cfg.stride=48,32",
    )
    assert "model.test_cfg.stride=(48, 32) leaves pixels between windows" in message
