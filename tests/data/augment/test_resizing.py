"""How large pictures become: the frame, the shorter side, the longer side."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agvm_jax.data.augment.augmentation import (
    Augmentation,
    Resizing,
    draw,
    still_placement,
)

FRAME = (800, 1344)
PAPER = Resizing((800,), 1333)


@settings(max_examples=300, deadline=None)
@given(
    size=st.tuples(st.integers(1, 4000), st.integers(1, 4000)),
    frame=st.tuples(st.integers(1, 1400), st.integers(1, 1400)),
)
def test_without_a_rule_a_picture_touches_the_frame_and_keeps_its_ratio(size, frame):
    height, width = Resizing().target(size, frame, 0)
    assert 1 <= height <= frame[0] and 1 <= width <= frame[1]
    assert height == frame[0] or width == frame[1]
    factor = min(frame[0] / size[0], frame[1] / size[1])
    assert abs(height - size[0] * factor) <= max(0.5, 1 - size[0] * factor)
    assert abs(width - size[1] * factor) <= max(0.5, 1 - size[1] * factor)


@settings(max_examples=300, deadline=None)
@given(
    size=st.tuples(st.integers(1, 4000), st.integers(1, 4000)),
    short=st.sampled_from((640, 672, 800)),
)
def test_the_shorter_side_is_reached_unless_a_limit_stops_the_longer_one(size, short):
    """Step by step: to the short side; back if the long one is over; into the frame."""
    frame = FRAME if size[1] >= size[0] else FRAME[::-1]
    ours = Resizing((640, 672, 800), 1333).target(size, frame, short)
    height, width = size
    factor = short / min(height, width)
    if max(height, width) * factor > 1333:
        factor = 1333 / max(height, width)
    slow = (max(1, round(height * factor)), max(1, round(width * factor)))
    assert ours == slow
    assert ours[0] <= frame[0] and ours[1] <= frame[1]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),
        ((640, 480), (1067, 800)),
        ((375, 500), (800, 1067)),
        ((333, 640), (694, 1333)),  # the longer side decides
        ((600, 600), (800, 800)),
        ((1600, 2400), (800, 1200)),
    ],
)
def test_sizes_that_detectron_gives_come_out_in_the_frame_of_the_orientation(
    size, expected
):
    frame = FRAME if size[1] >= size[0] else FRAME[::-1]
    assert still_placement(size, frame, PAPER).resized == expected


def test_a_picture_in_the_wrong_frame_still_fits():
    """One frame for all: a portrait picture is bounded by the frame's height."""
    assert still_placement((640, 480), FRAME, PAPER).resized == (800, 600)


def test_training_draws_each_short_side_and_evaluation_takes_the_largest():
    rules = Augmentation(resizing=Resizing((10, 30, 20)))
    heights = [
        draw(np.random.default_rng(seed), (50, 60), (40, 60), rules).placement.resized[
            0
        ]
        for seed in range(300)
    ]
    assert set(heights) == {10, 20, 30}
    assert np.unique(heights, return_counts=True)[1].min() > 70
    assert still_placement((50, 60), (40, 60), rules.resizing).resized == (30, 36)


def test_large_scale_jitter_cuts_what_is_too_large_and_pads_what_is_too_small():
    rules = Augmentation(scale_range=(0.1, 2.0))
    frame, scales, corners = (64, 64), [], []
    for seed in range(400):
        place = draw(np.random.default_rng(seed), (50, 50), frame, rules).placement
        scales.append(place.resized[0] / 64)
        assert place.window == tuple(min(64, side) for side in place.resized)
        corners.append(place.corner[0] / max(1, place.resized[0] - 64))
        if place.resized[0] <= 64:
            assert place.corner == (0, 0)
    assert 0.1 <= min(scales) < 0.13 and 1.97 < max(scales) <= 2.0
    assert 0.95 < np.mean(scales) < 1.15
    large = np.array(corners)[np.array(scales) > 1.2]
    assert large.min() < 0.1 and large.max() > 0.9 and 0.4 < large.mean() < 0.6
