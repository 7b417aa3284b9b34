"""Sizes of anchors from the boxes of a data set."""

import doctest

import numpy as np
import pytest
from coco_files import annotation

from agvm_jax.data import anchor_sizes, open_dataset


def test_the_docstrings_are_true():
    assert doctest.testmod(anchor_sizes).failed == 0


def test_sides_are_those_of_the_resized_image_without_crowds(write_coco):
    crowd = annotation(3, 1, 1, [0, 0, 50, 50]) | {"iscrowd": 1}
    content = {
        "images": [
            {"id": 1, "file_name": "a.png", "height": 60, "width": 120},
            {"id": 2, "file_name": "b.png", "height": 128, "width": 64},
        ],
        "annotations": [
            annotation(1, 1, 1, [10, 10, 30, 20]),
            crowd,
            annotation(2, 2, 1, [4, 8, 16, 40]),
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    config = write_coco(content)
    source = open_dataset(config).train
    # 120 x 60 goes into 64 x 64 by 64 / 120, 64 x 128 by 1 / 2.
    sides = anchor_sizes.look(source, (64, 64), config).sides
    np.testing.assert_allclose(sides, [[16, 32 / 3], [8, 20]], rtol=1e-6)
    # A frame of 64 x 128 that is turned for the second image holds it as it is.
    config.orientation_group = 2
    seen = anchor_sizes.look(source, (64, 128), config)
    sides, size, scale = seen
    assert size == (94, 92) and scale == pytest.approx((64 / 60 + 1) / 2, rel=0.02)
    np.testing.assert_allclose(sides, [[32, 64 / 3], [16, 40]], rtol=1e-6)


def test_chosen_sizes_meet_more_boxes_than_the_default_where_objects_are_small():
    rng = np.random.default_rng(0)
    sides = np.exp(rng.normal(np.log(12), 0.4, (500, 1))) * rng.uniform(0.8, 1.2, 2)

    def met(sizes):
        return anchor_sizes.share_met(sides, np.repeat(sizes, 2).reshape(-1, 2))

    chosen = anchor_sizes.choose_sizes(sides, (4, 8, 16, 32, 64))
    assert met(chosen) > 0.9 > 0.2 > met((32, 64, 128, 256, 512))
