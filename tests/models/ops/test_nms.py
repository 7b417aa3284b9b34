"""NMS equals the greedy algorithm, at every threshold, on thousands of random cases.

Coordinates are eighths of a pixel below 128, so that areas and their sums are exact in
float32: an IoU is then rounded once, in the oracle as on the device, and the two may be
compared without a tolerance even where an overlap equals the threshold.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.ops.forms import use_forms
from models.ops.nms import nms

NUM_BOXES, TILE = 50, 16  # three tiles and a bit
CASES = 240  # for each of nine thresholds


@pytest.fixture(params=["cpu", "gpu"], autouse=True)
def forms(request):
    """Every test here runs for each form; a TPU's is that of GPUs."""
    with use_forms(request.param):
        yield request.param


def greedy_nms(boxes, scores, classes, valid, threshold, max_outputs):
    """Rows kept by the textbook algorithm, best first."""
    wide = boxes.astype(np.float64)
    area = np.prod(np.maximum(wide[:, 2:] - wide[:, :2], 0), axis=1)
    left = [row for row in np.argsort(-scores, kind="stable") if valid[row]]
    kept = []
    while left and len(kept) < max_outputs:
        first = left.pop(0)
        kept.append(first)
        others = np.array(left, int)
        corner = np.maximum(wide[first, :2], wide[others, :2])
        side = np.minimum(wide[first, 2:], wide[others, 2:]) - corner
        shared = np.prod(np.maximum(side, 0), axis=1)
        union = area[first] + area[others] - shared
        overlap = np.zeros(len(others), np.float32)
        real = union > 0
        overlap[real] = shared[real].astype(np.float32) / union[real].astype(np.float32)
        gone = (overlap > np.float32(threshold)) & (classes[others] == classes[first])
        left = others[~gone].tolist()
    return kept


def random_case(rng):
    """Boxes, scores, classes, valid of one image, of one of several kinds."""
    kind = rng.integers(6)
    span = rng.choice([8, 24, 64])  # from "all overlap" to "few do"
    corner = rng.integers(0, 8 * span, (NUM_BOXES, 2))
    size = rng.integers(1, 8 * 24, (NUM_BOXES, 2))
    scores = rng.random(NUM_BOXES).astype(np.float32)
    classes = rng.integers(0, rng.choice([1, 2, 5]), NUM_BOXES)
    valid = rng.random(NUM_BOXES) < rng.choice([0.3, 1.0])
    if kind == 1:  # equal scores
        scores = rng.integers(0, 4, NUM_BOXES).astype(np.float32)
    elif kind == 2:  # identical boxes
        source = rng.integers(0, 5, NUM_BOXES)
        corner, size = corner[source], size[source]
    elif kind == 3:  # boxes without area
        size[rng.random((NUM_BOXES, 2)) < 0.3] = 0
    elif kind == 4:  # a chain: each overlaps the next, as long as the list
        corner = np.stack([np.arange(NUM_BOXES) * rng.integers(1, 12)] * 2, axis=1)
        size = np.full((NUM_BOXES, 2), 64)
        scores = np.linspace(1, 0.1, NUM_BOXES, dtype=np.float32)
        valid[:] = True
    elif kind == 5 and rng.random() < 0.2:
        valid[:] = False
    boxes = np.concatenate([corner, corner + size], axis=1).astype(np.float32) / 8
    return boxes, scores, classes.astype(np.int32), valid


@functools.cache
def compiled_nms(threshold, max_outputs, tile=TILE, runs=None):
    one = functools.partial(
        nms, iou_threshold=threshold, max_outputs=max_outputs, tile=tile, runs=runs
    )
    return jax.jit(jax.vmap(one))


def run(cases, threshold, max_outputs, tile=TILE, runs=None):
    stacked = [jnp.asarray(np.stack(column)) for column in zip(*cases, strict=True)]
    indices, kept = compiled_nms(threshold, max_outputs, tile, runs)(*stacked)
    return [
        row[mask].tolist()
        for row, mask in zip(np.asarray(indices), np.asarray(kept), strict=True)
    ]


@pytest.mark.parametrize("tenths", range(1, 10))
def test_it_equals_greedy_nms(tenths):
    threshold = tenths / 10
    rng = np.random.default_rng(tenths)
    cases = [random_case(rng) for _ in range(CASES)]
    found = run(cases, threshold, NUM_BOXES)
    for case, rows in zip(cases, found, strict=True):
        assert rows == greedy_nms(*case, threshold, NUM_BOXES)


def test_a_short_list_of_outputs_is_the_beginning_of_the_long_one():
    rng = np.random.default_rng(0)
    cases = [random_case(rng) for _ in range(CASES)]
    found = run(cases, 0.3, 7)
    for case, rows in zip(cases, found, strict=True):
        assert rows == greedy_nms(*case, 0.3, 7)


def test_the_tile_changes_nothing():
    rng = np.random.default_rng(1)
    cases = [random_case(rng) for _ in range(CASES)]
    assert run(cases, 0.3, 20, tile=7) == run(cases, 0.3, 20, tile=256)


def test_runs_that_share_no_class_change_nothing():
    """As of a pyramid: levels of several sizes, each with its class."""
    runs = (26, 16, 8)
    rng = np.random.default_rng(4)
    cases = []
    for _ in range(CASES):
        boxes, scores, _, valid = random_case(rng)
        cases.append(
            (boxes, scores, np.repeat([3, 0, 7], runs).astype(np.int32), valid)
        )
    found = run(cases, 0.3, 20, runs=runs)
    for case, rows in zip(cases, found, strict=True):
        assert rows == greedy_nms(*case, 0.3, 20)


def test_it_equals_greedy_nms_on_a_list_of_the_size_that_detectors_send():
    rng = np.random.default_rng(2)
    corner = rng.integers(0, 8 * 90, (2000, 2))
    boxes = np.concatenate([corner, corner + rng.integers(8, 300, (2000, 2))], axis=1)
    scores = rng.random(2000).astype(np.float32)
    classes = rng.integers(0, 4, 2000).astype(np.int32)
    case = boxes.astype(np.float32) / 8, scores, classes, scores > 0.05
    expected = greedy_nms(*case, 0.3, 100)
    assert len(expected) == 100
    assert run([case], 0.3, 100, tile=256)[0] == expected


def single(boxes, scores, classes=None, valid=None, threshold=0.5, max_outputs=4):
    boxes = np.asarray(boxes, np.float32)
    scores = np.asarray(scores, np.float32)
    classes = np.zeros(len(boxes), np.int32) if classes is None else np.asarray(classes)
    valid = np.ones(len(boxes), bool) if valid is None else np.asarray(valid)
    return run([(boxes, scores, classes, valid)], threshold, max_outputs)[0]


def test_one_box_suppresses_all_its_copies():
    assert single([[0, 0, 4, 4]] * 6, [0.1, 0.2, 0.9, 0.9, 0.3, 0.4]) == [2]


def test_a_suppressed_box_suppresses_nobody():
    """The middle one falls to the first, so the last, which only it overlaps, stays."""
    boxes = [[0, 0, 10, 10], [0, 4, 10, 14], [0, 8, 10, 18]]
    assert single(boxes, [0.9, 0.8, 0.7], threshold=0.3) == [0, 2]


def test_an_overlap_equal_to_the_threshold_does_not_suppress():
    boxes = [[0, 0, 4, 4], [0, 0, 4, 2]]
    assert single(boxes, [0.9, 0.8], threshold=0.5) == [0, 1]
    assert single(boxes, [0.9, 0.8], threshold=0.49) == [0]


def test_other_classes_do_not_suppress():
    boxes = [[0, 0, 4, 4]] * 4
    assert single(boxes, [0.9, 0.8, 0.7, 0.6], [1, 2, 1, 2]) == [0, 1]


def test_nothing_valid_keeps_nothing():
    assert single([[0, 0, 4, 4]] * 6, [1.0] * 6, valid=[False] * 6) == []


def test_scores_that_are_no_numbers_are_never_kept():
    scores = [np.nan, 0.5, -np.inf]
    assert single([[0, 0, 4, 4], [8, 8, 9, 9], [20, 20, 30, 30]], scores) == [1]


def test_negative_scores_are_kept_in_order():
    boxes = [[0, 0, 4, 4], [8, 8, 9, 9], [20, 20, 30, 30]]
    assert single(boxes, [-3.0, -1.0, -2.0]) == [1, 2, 0]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("iou_threshold", 1.5),
        ("iou_threshold", -0.1),
        ("max_outputs", 0),
        ("tile", 0),
        ("runs", (1, 1)),
    ],
)
def test_arguments_out_of_range_are_refused(argument, value):
    arguments = {"iou_threshold": 0.5, "max_outputs": 1, "tile": 4, argument: value}
    with pytest.raises(ValueError, match=argument):
        nms(
            jnp.zeros((1, 4)),
            jnp.zeros(1),
            jnp.zeros(1, jnp.int32),
            jnp.ones(1, bool),
            **arguments,
        )
