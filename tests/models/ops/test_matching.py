"""Matching object by object equals matching by the whole table of overlaps.

Coordinates are quarters of a pixel, so that areas are exact in float32 and the oracle's
ties are the function's ties.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.ops.forms import use_forms
from models.ops.matching import (
    BACKGROUND,
    IGNORE,
    inside_crowd,
    match,
    match_objects,
)

NUM_ANCHORS, NUM_BOXES = 60, 19  # more rows than are valid


@pytest.fixture(params=["cpu", "gpu"], autouse=True)
def forms(request):
    """Every test here runs for each form; a TPU's is that of GPUs."""
    with use_forms(request.param):
        yield request.param


def slow_overlaps(boxes, anchors):
    """(N, A) float32 IoU by loops over pairs."""
    table = np.zeros((len(boxes), len(anchors)), np.float32)
    for n, b in enumerate(boxes.astype(np.float64)):
        for a, c in enumerate(anchors.astype(np.float64)):
            width = min(b[2], c[2]) - max(b[0], c[0])
            height = min(b[3], c[3]) - max(b[1], c[1])
            shared = max(width, 0) * max(height, 0)
            total = (b[2] - b[0]) * (b[3] - b[1]) + (c[2] - c[0]) * (c[3] - c[1])
            if total > shared:
                table[n, a] = np.float32(shared) / np.float32(total - shared)
    return table


def slow_match(anchors, boxes, valid, high, low, low_quality):
    rows = np.flatnonzero(valid)
    matches = np.full(len(anchors), BACKGROUND)
    if len(rows) == 0:
        return matches
    table = slow_overlaps(boxes[rows], anchors)
    best = table.max(axis=0)
    matches[best >= np.float32(low)] = IGNORE
    own = rows[table.argmax(axis=0)]
    matches = np.where(best >= np.float32(high), own, matches)
    if low_quality:
        for line in table:
            if line.max() > 0:
                matches = np.where(line == line.max(), own, matches)
    return matches


def quarter_boxes(rng, count, span, longest):
    corner = rng.integers(0, 4 * span, (count, 2))
    size = rng.integers(1, 4 * longest, (count, 2))
    return np.concatenate([corner, corner + size], axis=1).astype(np.float32) / 4


@functools.cache
def compiled_match(high, low, low_quality):
    one = functools.partial(
        match, foreground_iou=high, background_iou=low, low_quality=low_quality
    )
    return jax.jit(jax.vmap(one))


@pytest.mark.parametrize(
    ("high", "low", "low_quality"),
    [(0.5, 0.4, True), (0.5, 0.4, False), (0.7, 0.3, True), (0.5, 0.5, False)],
)
def test_matches_equal_those_of_the_whole_table(high, low, low_quality):
    rng = np.random.default_rng(0)
    cases = []
    for _ in range(40):
        anchors = quarter_boxes(rng, NUM_ANCHORS, 24, 12)
        boxes = quarter_boxes(rng, NUM_BOXES, 24, 16)
        anchors[5:9] = anchors[3]  # ties between anchors
        boxes[4] = boxes[2]  # and between objects
        valid = rng.random(NUM_BOXES) < rng.choice([0.0, 0.1, 0.5, 1.0])
        cases.append((anchors, boxes, valid))
    stacked = [jnp.asarray(np.stack(column)) for column in zip(*cases, strict=True)]
    found = compiled_match(high, low, low_quality)(*stacked)
    for result, (anchors, boxes, valid) in zip(found, cases, strict=True):
        expected = slow_match(anchors, boxes, valid, high, low, low_quality)
        np.testing.assert_array_equal(np.asarray(result), expected)


def one_match(anchors, boxes, valid, low_quality=True):
    return match(
        jnp.asarray(anchors, jnp.float32),
        jnp.asarray(boxes, jnp.float32),
        jnp.asarray(valid),
        foreground_iou=0.5,
        background_iou=0.4,
        low_quality=low_quality,
    ).tolist()


def test_the_thresholds_belong_to_the_better_side():
    anchors = [[0, 0, 10, 10]] * 1
    assert one_match(anchors, [[0, 0, 10, 5]], [True], False) == [0]  # IoU 0.5
    assert one_match(anchors, [[0, 0, 10, 4]], [True], False) == [IGNORE]  # 0.4
    assert one_match(anchors, [[0, 0, 10, 3]], [True], False) == [BACKGROUND]


def test_an_object_that_suits_no_anchor_gets_its_best_ones():
    anchors = [[0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 10, 10]]
    boxes = [[0, 0, 2, 2]]
    assert one_match(anchors, boxes, [True]) == [0, BACKGROUND, 0]


def test_an_anchor_wanted_by_a_weak_object_goes_to_its_own_best_object():
    """As in detectron2: the second object is left without its only anchor."""
    anchors = [[0, 0, 10, 10]]
    boxes = [[0, 0, 10, 9], [0, 0, 3, 3]]
    assert one_match(anchors, boxes, [True, True]) == [0]


def test_an_object_that_overlaps_nothing_matches_nothing():
    anchors = [[0, 0, 10, 10], [20, 0, 30, 10]]
    boxes = [[50, 50, 60, 60], [5, 5, 5, 5]]  # outside; without area
    assert one_match(anchors, boxes, [True, True]) == [BACKGROUND, BACKGROUND]


def test_padding_rows_never_match_wherever_they_stand():
    anchors = [[0, 0, 10, 10], [20, 0, 30, 10]]
    boxes = [[0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 10, 10]]
    assert one_match(anchors, boxes, [False, True, True]) == [2, 1]
    assert one_match(anchors, boxes, [False, False, False]) == [BACKGROUND] * 2


def test_every_object_keeps_an_anchor_on_a_real_grid():
    """Overlaps that are not exact in float32 must still find their own maximum."""
    rng = np.random.default_rng(3)
    corner = rng.uniform(0, 200, (64, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 8, (64, 2))], 1)
    y, x = np.meshgrid(np.arange(0, 208, 8), np.arange(0, 208, 8), indexing="ij")
    centre = np.stack([x, y, x, y], axis=-1).reshape(-1, 4)
    anchors = centre + np.array([-16, -16, 16, 16])
    arguments = (
        jnp.asarray(anchors[None], jnp.float32),
        jnp.asarray(boxes[:, None], jnp.float32),
        jnp.ones((64, 1), bool),
    )
    single = jax.vmap(compiled_match(0.5, 0.4, True), in_axes=(None, 0, 0))
    matches = single(arguments[0], arguments[1][:, None], arguments[2][:, None])
    assert ((matches >= 0).sum(axis=-1) > 0).all()


def test_crowd_regions_cover_what_lies_in_them_by_more_than_half():
    anchors = [[0, 0, 4, 4], [6, 0, 10, 4], [8, 0, 16, 4], [20, 0, 24, 4]]
    boxes = [[0, 0, 10, 10], [18, 0, 30, 10], [0, 0, 90, 90]]
    inside = inside_crowd(
        jnp.asarray(anchors, jnp.float32),
        jnp.asarray(boxes, jnp.float32),
        jnp.array([True, True, False]),
    )
    assert inside.tolist() == [True, True, False, True]


def test_crowd_regions_match_nothing_and_hide_only_background():
    boxes = jnp.array([[0.0, 0.0, 4.0, 4.0], [2.0, 0.0, 12.0, 4.0]])
    anchors = jnp.array(
        [[0.0, 0.0, 4.0, 4.0], [8.0, 0.0, 12.0, 4.0], [2.0, 0.0, 12.0, 4.0]]
        + [[1.0, 0.0, 5.0, 4.0], [20.0, 0.0, 24.0, 4.0]]
    )
    rule = dict(foreground_iou=0.6, background_iou=0.6, low_quality=False)
    for valid, crowd, expected in (
        ((True, True), (False, False), [0, BACKGROUND, 1, 0, BACKGROUND]),
        ((True, True), (False, True), [0, IGNORE, IGNORE, 0, BACKGROUND]),
        # A region that is not valid is none.
        ((True, False), (False, True), [0, BACKGROUND, BACKGROUND, 0, BACKGROUND]),
    ):
        found = match_objects(
            anchors, boxes, jnp.array(valid), jnp.array(crowd), **rule
        )
        assert found.tolist() == expected


def test_crowd_regions_past_the_first_rows_are_seen():
    anchors = jnp.array([[0.0, 0, 4, 4], [30, 30, 34, 34]])
    boxes = jnp.tile(jnp.array([[100.0, 100, 110, 110]]), (20, 1))
    boxes = boxes.at[17].set(jnp.array([0.0, 0, 8, 8]))
    assert inside_crowd(anchors, boxes, jnp.ones(20, bool)).tolist() == [True, False]
    assert inside_crowd(anchors, boxes, jnp.arange(20) == 17).tolist() == [True, False]
    assert not inside_crowd(anchors, boxes, jnp.zeros(20, bool)).any()


@pytest.mark.parametrize(("high", "low"), [(0.4, 0.5), (1.5, 0.4), (0.5, -0.1), (0, 0)])
def test_thresholds_out_of_order_are_refused(high, low):
    with pytest.raises(ValueError, match="background_iou"):
        match(
            jnp.zeros((1, 4)),
            jnp.zeros((1, 4)),
            jnp.ones(1, bool),
            foreground_iou=high,
            background_iou=low,
            low_quality=True,
        )
