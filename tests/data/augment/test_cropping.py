"""Random crops, beside slow loops."""

import numpy as np
import pytest

from agvm_jax.data.augment.cropping import Cropping, centers_inside

SIZE = (60, 90)


def random_boxes(rng, count, size=SIZE):
    corners = rng.uniform(0, 1, (count, 2, 2)) * size[::-1]
    return np.concatenate([corners.min(1), corners.max(1)], axis=1)


def slow_iou(box, part):
    """Counted in tenths of pixels; the sides must be multiples of them."""
    y, x, height, width = (10 * side for side in part)
    x1, y1, x2, y2 = (round(10 * side) for side in box)
    shared, area = 1, 1
    for low, high, start, extent in ((y1, y2, y, height), (x1, x2, x, width)):
        tenths = np.arange(10 * max(SIZE))
        inside = (tenths >= low) & (tenths < high)
        shared *= (inside & (tenths >= start) & (tenths < start + extent)).sum()
        area *= inside.sum()
    return shared / (area + height * width - shared)


@pytest.mark.parametrize("kind", ["size", "iou"])
def test_a_crop_lies_in_the_image_and_keeps_the_shares_asked_for(kind):
    rng = np.random.default_rng(0)
    for _ in range(300):
        boxes = random_boxes(rng, 3)
        y, x, height, width = Cropping(kind, (0.3, 0.8)).sample(rng, SIZE, boxes)
        assert y >= 0 and x >= 0 and y + height <= 60 and x + width <= 90
        if (height, width) != SIZE:
            assert 18 <= height <= 48 and 27 <= width <= 72


def test_size_crops_reach_every_place_and_every_size():
    rng = np.random.default_rng(0)
    rule = Cropping("size", (0.5, 1.0))
    parts = np.array([rule.sample(rng, (4, 6), np.zeros((0, 4))) for _ in range(2000)])
    assert set(parts[:, 2]) == {2, 3, 4} and set(parts[:, 3]) == {3, 4, 5, 6}
    for extent in (2, 3):  # every corner that leaves room
        rows = parts[parts[:, 2] == extent][:, 0]
        assert set(rows) == set(range(4 - extent + 1))


def test_a_crop_of_one_pixel_images_is_the_image():
    rng = np.random.default_rng(0)
    assert Cropping("size").sample(rng, (1, 1), np.zeros((0, 4))) == (0, 0, 1, 1)


def test_the_probability_is_kept_and_the_rest_is_whole():
    rng = np.random.default_rng(0)
    rule = Cropping("size", (0.3, 0.6), probability=0.25)
    parts = [rule.sample(rng, SIZE, np.zeros((0, 4))) for _ in range(2000)]
    assert 0.22 < np.mean([part != (0, 0, *SIZE) for part in parts]) < 0.28


def test_an_iou_crop_holds_an_objects_centre_and_overlaps_as_sampled():
    """Over many samples each least overlap is used, and whole images appear."""
    overlaps, whole = [], 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        boxes = np.round(random_boxes(rng, 3), 1)
        boxes = boxes[(boxes[:, 2:] - boxes[:, :2]).min(axis=1) > 5]
        part = Cropping("iou").sample(rng, SIZE, boxes)
        if part == (0, 0, *SIZE):
            whole += 1
            continue
        inside = [
            part[1] <= (x1 + x2) / 2 < part[1] + part[3]
            and part[0] <= (y1 + y2) / 2 < part[0] + part[2]
            for x1, y1, x2, y2 in boxes
        ]
        assert any(inside)
        np.testing.assert_array_equal(centers_inside(boxes, part), inside)
        assert 0.5 <= part[2] / part[3] <= 2
        overlaps.append(
            max(slow_iou(b, part) for b, k in zip(boxes, inside, strict=True) if k)
        )
    assert whole > 50  # one sample in seven, and what no trial satisfies
    assert np.mean(np.array(overlaps) > 0.5) > 0.2


def test_the_overlap_asked_for_is_reached(monkeypatch):
    import agvm_jax.data.augment.cropping as cropping

    monkeypatch.setattr(cropping, "_LEAST_OVERLAPS", (0.6,))
    found = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        boxes = np.array([[20.0, 10.0, 70.0, 50.0]])
        part = Cropping("iou").sample(rng, SIZE, boxes)
        if part != (0, 0, *SIZE):
            found += 1
            assert slow_iou(boxes[0], part) >= 0.6
    assert found > 50


def test_without_objects_an_iou_crop_is_the_whole_image():
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert Cropping("iou").sample(rng, SIZE, np.zeros((0, 4))) == (0, 0, *SIZE)
