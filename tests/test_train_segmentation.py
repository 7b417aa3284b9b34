"""Semantic FPN and Panoptic FPN go through everything that a run does."""

import json

import pytest
from command_lines import command_line

import train


def run(folder, detector, semantic, *overrides):
    """Runs train.main on the smallest config; returns the last evaluation's numbers."""
    settings = {
        "workdir": folder / "run",
        "steps": 4,
        "train.progress": False,
        "train.trackers": "",
        "data.cache_dir": folder / "cache",
        "data.shapes.stuff": True,
        "data.semantic": semantic,
        "model.detector": detector,
        "model.semantic_head.channels": 32,
    }
    words = [f"--config.{key}={value}" for key, value in settings.items()]
    with command_line(*words, *overrides) as argv:
        assert train.main(argv) == 0
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.slow  # a minute of compilation
@pytest.mark.timeout(900)
def test_semantic_fpn_is_trained_judged_and_drawn_also_in_windows(tmp_path):
    lines = run(
        tmp_path,
        "semantic_fpn",
        "all",
        "--config.model.test_cfg.mode=slide",
        "--config.model.test_cfg.crop_size=48,48",
        "--config.model.test_cfg.stride=16,16",
        "--config.model.test_cfg.flip=True",
    )
    logged = {key for line in lines for key in line}
    modules = ("backbone", "fpn", "semantic_head")
    assert {f"{what}/{m}" for what in ("phi", "mu") for m in modules} <= logged
    assert "loss/semantic" in logged
    report = tmp_path / "run" / "eval" / "4"
    results = json.loads((report / "results.json").read_text())
    assert "mIoU" in json.dumps(results)
    assert (report / "image_1.png").is_file()


@pytest.mark.slow  # minutes of compilation
@pytest.mark.timeout(900)
def test_panoptic_fpn_is_trained_judged_and_drawn(tmp_path):
    lines = run(tmp_path, "panoptic_fpn", "stuff", "--config.data.mask_size=14")
    logged = {key for line in lines for key in line}
    modules = ("backbone", "fpn", "rpn", "box_head", "mask_head", "semantic_head")
    assert {f"{what}/{m}" for what in ("phi", "mu") for m in modules} <= logged
    parts = "objectness rpn_box classification box mask semantic".split()
    assert {f"loss/{part}" for part in parts} <= logged
    report = tmp_path / "run" / "eval" / "4"
    assert "PQ" in (report / "table.txt").read_text()
    assert (report / "image_1.png").is_file()
