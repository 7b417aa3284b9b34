"""model.anchors.sizes=(): a run has anchors from the boxes of its training images."""

import dataclasses
import json

import pytest

import experiment
from agvm_jax.data import open_dataset
from agvm_jax.training.input_size import evaluation_size
from configs import tiny
from trained import with_anchors


@pytest.fixture
def config(tmp_path, cache):
    config = tiny.get_config()
    config.workdir = str(tmp_path / "run")
    config.data.cache_dir = str(cache)
    config.model.anchors.sizes = ()
    return config


def test_a_run_says_and_remembers_which_sizes_it_chose(config, tmp_path, capsys):
    first = experiment.build(config)
    said = capsys.readouterr().out
    sizes = json.loads((tmp_path / "run/config.json").read_text())["model"]["anchors"][
        "sizes"
    ]
    # P3 to P7 stand 8 to 128 pixels apart; the images have 64 pixels a side.
    assert len(sizes) == 5 and sizes[0] < 32 and sizes[1:] >= [16, 32, 64, 128]
    assert "anchors     sizes " + ", ".join(f"{s:g}" for s in sizes) in said
    card = json.loads((tmp_path / "run/model.json").read_text())
    assert card["config"]["model"]["anchors"]["sizes"] == sizes
    assert config.model.anchors.sizes == ()
    # The same command goes on in the same folder.
    assert experiment.build(config).folder == first.folder


def test_sizes_that_are_set_stay(config):
    config.model.anchors.sizes = (8.0, 16.0, 32.0, 64.0, 128.0)
    assert with_anchors(config, None, None) == (config, {})
    config.model.anchors.sizes = ()
    config.model.detector = "semantic_fpn"
    assert with_anchors(config, None, None, tell=True) == (config, {})


def test_sizes_that_do_not_suit_the_boxes_are_told_so(config):
    dataset, evaluated = open_dataset(config.data), evaluation_size(config)
    _, chosen = with_anchors(config, dataset, evaluated)
    assert "(from the boxes)" in chosen["anchors"]
    assert "64 x 64 px, seen at 1 of that" in chosen["images"]
    config.model.anchors.sizes = (128.0, 256.0, 512.0, 512.0, 512.0)
    same, told = with_anchors(config, dataset, evaluated, tell=True)
    assert same.model.anchors.sizes == config.model.anchors.sizes
    assert "sizes='()' takes sizes from the boxes" in told["anchors"]


def test_without_a_box_sizes_are_asked_for(config):
    class Empty:
        def __len__(self):
            return 0

    dataset = dataclasses.replace(open_dataset(config.data), train=Empty())
    with pytest.raises(ValueError, match="there are none: give five sizes"):
        with_anchors(config, dataset, evaluation_size(config))
