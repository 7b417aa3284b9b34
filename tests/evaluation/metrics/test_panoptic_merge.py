"""Instances and stuff become one panoptic map."""

import numpy as np
import pytest
from panoptic_sets import CAR, CATEGORIES, GRASS, PERSON, SKY, evaluator_of, segment

from agvm_jax.evaluation.metrics.panoptic_merge import MergeRule, merge_panoptic
from agvm_jax.mask_pasting import paste_mask
from agvm_jax.structures import Batch, Predictions


def merge(boxes, scores, labels, rule=None, masks=None, categories=None):
    count = len(boxes)
    return merge_panoptic(
        np.array(boxes, float).reshape(count, 4),
        np.array(scores),
        [PERSON] * count if categories is None else categories,
        np.ones((count, 4, 4)) if masks is None else masks,
        labels,
        (None, SKY, GRASS),
        rule or MergeRule(stuff_area_limit=1),
    )


def test_the_better_instance_lies_on_top_and_a_covered_one_is_dropped():
    labels = np.zeros((10, 10), int)
    boxes = [[0, 0, 10, 6], [0, 4, 10, 10], [0, 0, 10, 5]]
    picture, segments = merge(boxes, [0.6, 0.9, 0.55], labels)
    np.testing.assert_array_equal(picture[4:], 1)
    np.testing.assert_array_equal(picture[:4], 2)
    assert [s["score"] for s in segments] == [0.9, 0.6]
    half = [[0, 0, 10, 4], [0, 2, 10, 6]]
    assert len(merge(half, [0.9, 0.8], labels)[1]) == 2  # exactly a half stays
    strict = MergeRule(overlap_threshold=0.4, stuff_area_limit=1)
    assert len(merge(half, [0.9, 0.8], labels, strict)[1]) == 1


def test_low_scores_and_empty_masks_make_no_segment():
    labels = np.zeros((10, 10), int)
    picture, segments = merge([[0, 0, 5, 5]], [0.49], labels)
    assert not picture.any() and segments == []
    _, segments = merge([[0, 0, 5, 5]], [0.5], labels)  # not below the threshold
    assert [s["score"] for s in segments] == [0.5]
    _, segments = merge([[0, 0, 5, 5]], [0.9], labels, masks=np.zeros((1, 4, 4)))
    assert segments == []


def test_stuff_fills_what_is_left_unless_it_is_small_and_never_from_the_thing_label():
    labels = np.zeros((10, 10), int)
    labels[:6] = 1  # sky
    labels[8:, :2] = 2  # a little grass
    picture, segments = merge(
        [[0, 0, 10, 3]], [0.9], labels, MergeRule(stuff_area_limit=5)
    )
    assert [s["category_id"] for s in segments] == [PERSON, SKY]
    np.testing.assert_array_equal(picture[:3], 1)
    np.testing.assert_array_equal(picture[3:6], 2)
    np.testing.assert_array_equal(picture[6:], 0)
    _, segments = merge([[0, 0, 10, 3]], [0.9], labels, MergeRule(stuff_area_limit=4))
    assert [s["category_id"] for s in segments] == [PERSON, SKY, GRASS]


def test_by_default_stuff_of_fewer_than_4096_pixels_is_void():
    labels = np.ones((64, 64), int)
    picture, segments = merge([], [], labels, MergeRule())
    assert [s["category_id"] for s in segments] == [SKY] and picture.all()
    labels[0, 0] = -1
    picture, segments = merge([], [], labels, MergeRule())
    assert segments == [] and not picture.any()


def test_predictions_of_a_network_become_a_panoptic_map_in_original_pixels():
    segments = np.zeros((20, 40), np.int64)
    segments[:, :] = 8
    segments[10:, 20:] = 9
    info = [segment(8, SKY), segment(9, CAR)]
    truth = {
        "annotations": [{"image_id": 3, "file_name": "3.png", "segments_info": info}],
        "categories": CATEGORIES,
    }
    rule = MergeRule(stuff_area_limit=100)
    evaluator = evaluator_of(truth, {"3.png": segments}, rule=rule)
    # The input is 16 x 32, the picture its top left 10 x 20, the labels at stride 2.
    labels = np.zeros((2, 8, 16), int)
    labels[:, :5, :10] = 1
    boxes = np.array([[10.0, 5, 20, 10], [0, 0, 5, 5]])
    evaluator.add(
        Batch(
            np.zeros((2, 16, 32, 3), np.uint8),
            np.array([[10, 20], [10, 20]]),
            np.array([-1, 3]),
            *[None] * 4,
        ),
        Predictions(
            np.stack([boxes] * 2),
            np.array([[0.9, 0.8]] * 2),
            np.array([[1, 0]] * 2),
            np.array([[True, False]] * 2),
            np.ones((2, 2, 7, 7)),
            labels,
        ),
    )
    assert evaluator.num_images == 1
    assert set(evaluator.compute().values()) == {1.0}


def slow_merge(boxes, scores, categories, masks, labels, label_categories, rule):
    """The paper's merge, pixel by pixel; segments as (category, score or None)."""
    height, width = labels.shape
    pixels = [(i, j) for i in range(height) for j in range(width)]
    found, segments = np.zeros((height, width), int), []
    for d in sorted(range(len(scores)), key=lambda d: -scores[d]):
        if scores[d] < rule.score_threshold:
            continue
        pasted = paste_mask(masks[d], boxes[d], height, width)
        own = [place for place in pixels if pasted[place]]
        free = [place for place in own if not found[place]]
        if not free or 1 - len(free) / len(own) > rule.overlap_threshold:
            continue
        segments.append((categories[d], scores[d]))
        for place in free:
            found[place] = len(segments)
    for label, category in enumerate(label_categories):
        own = [place for place in pixels if labels[place] == label and not found[place]]
        if category is None or not own or len(own) < rule.stuff_area_limit:
            continue
        segments.append((category, None))
        for place in own:
            found[place] = len(segments)
    return found, segments


@pytest.mark.parametrize("kind", ["all", "no things", "no stuff", "void"])
def test_random_images_are_merged_as_by_a_loop_over_pixels(kind):
    rng = np.random.default_rng(0)
    seen = 0
    for _ in range(12):
        height, width = rng.integers(8, 20, 2)
        count = 0 if kind in ("no things", "void") else int(rng.integers(1, 9))
        corners = rng.uniform(-6, 16, (count, 2))
        boxes = np.hstack([corners, corners + rng.uniform(0.5, 14, (count, 2))])
        labels = rng.integers(-1, 5, (height, width)).repeat(2, 0).repeat(2, 1)
        labels = labels[:height, :width]
        if kind in ("no stuff", "void"):
            labels[:] = rng.choice([-1, 0])
        given = (
            boxes,
            rng.choice([0.4, 0.5, 0.6, 0.9], count),
            rng.choice([PERSON, CAR], count).tolist(),
            rng.random((count, 5, 5)) ** 0.5,
            labels,
            (None, SKY, GRASS, None),
            MergeRule(stuff_area_limit=int(rng.integers(0, 20))),
        )
        expected, rows = slow_merge(*given)
        found, segments = merge_panoptic(*given)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == np.int32
        assert [s["id"] for s in segments] == list(range(1, len(rows) + 1))
        assert [(s["category_id"], s.get("score")) for s in segments] == rows
        seen += len(rows)
    assert (seen > 0) == (kind != "void")


def test_a_rule_that_cannot_be_followed_is_refused():
    for rule in (
        {"score_threshold": 1.5},
        {"overlap_threshold": -0.1},
        {"stuff_area_limit": -1},
    ):
        with pytest.raises(ValueError, match=f"eval.panoptic.{next(iter(rule))}="):
            MergeRule(**rule)
