"""Copy-paste: pixels, masks, boxes and labels of two images in one, by slow loops."""

import dataclasses

import cv2
import numpy as np
import pytest
from listed_sources import Listed, take

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.annotations.objects import pack, windows
from agvm_jax.data.annotations.segments import segments_from_labels, store_segments
from agvm_jax.data.augment.augmentation import Augmentation, Transform, sample
from agvm_jax.data.augment.placement import Placement
from agvm_jax.data.example import make_row
from agvm_jax.data.pasting import Objects, make_pasted_row

SIZE = (24, 32)
STILL = Placement(SIZE, SIZE, (0, 0), SIZE, flip=False)


def painted(image_id, boxes, classes=None, crowd=None, masks=None):
    """An image of one colour whose objects fill their boxes, or have given masks."""
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    n = len(boxes)
    image = np.full((*SIZE, 3), 40 * (image_id + 1), np.uint8)
    labels = np.full(SIZE, 5 + image_id)
    if masks is None:
        corners = windows(boxes).tolist()
        masks = [np.ones((d - b, c - a), np.uint8) for a, b, c, d in corners]
    return {
        "image": cv2.imencode(".png", image)[1].tobytes(),
        "file_name": f"{image_id}.png",
        "image_id": image_id,
        "height": SIZE[0],
        "width": SIZE[1],
        "boxes": boxes,
        "classes": np.arange(n, dtype=np.int32) if classes is None else classes,
        "turn": 1,
        "crowd": np.zeros(n, bool) if crowd is None else np.array(crowd),
        "area": np.full(n, 64, np.float32),
        "masks": pack(masks),
        "things": 3,
        **store_segments(segments_from_labels(labels)),
    }


class Donor:
    """A generator that takes image 1 as it stands, and these of its objects."""

    def __init__(self, *taken):
        self._taken = taken

    def integers(self, count):
        return min(1, count - 1)

    def random(self, count):
        # Four numbers for the placement: not enlarged, the upper left, not mirrored.
        if isinstance(count, int) and count == len(self._taken):
            return np.where(self._taken, 0.2, 0.8)
        return np.array([0.0, 0.0, 0.0, 0.9])


def pasted(first, second, donor, config):
    return make_pasted_row(
        Listed([first, second]),
        Augmentation(),
        first,
        Transform(STILL, donor=donor),
        SIZE,
        config,
        np.random.default_rng(0),
    )


@pytest.fixture
def masked(data_config):
    data_config.mask_size, data_config.max_boxes = 8, 6
    return data_config


def test_what_is_pasted_covers_pixels_masks_and_boxes(masked):
    first = painted(0, [(2, 2, 10, 10), (4, 4, 8, 8), (20, 4, 30, 12)])
    second = painted(1, [(3, 3, 9, 14), (18, 14, 26, 22)], np.array([2, 1], np.int32))
    row, dropped = pasted(first, second, Donor(True, False), masked)

    image = np.full((*SIZE, 3), 40, np.uint8)
    image[3:14, 3:9] = 80
    np.testing.assert_array_equal(row["image"], image)
    # The second object was hidden as a whole; the first one is an angle now.
    assert row["valid"].sum() == 3 and tuple(dropped) == (0, 0)
    np.testing.assert_array_equal(
        row["boxes"][:3], [(2, 2, 10, 10), (20, 4, 30, 12), (3, 3, 9, 14)]
    )
    np.testing.assert_array_equal(row["classes"][:3], [0, 2, 2])
    angle = np.ones((8, 8), np.uint8)
    angle[1:, 1:7] = 0
    np.testing.assert_array_equal(row["masks"][0], angle)
    assert row["masks"][1:3].all() and not row["masks"][3:].any()
    assert row["image_id"] == 0


def test_a_box_shrinks_to_what_is_left_and_the_mask_is_stretched_over_that(masked):
    first = painted(0, [(2.5, 2, 18, 10)])
    row, _ = pasted(first, painted(1, [(10, 0, 32, 24)]), Donor(True), masked)
    np.testing.assert_array_equal(row["boxes"][0], (2.5, 2, 10, 10))
    assert row["masks"][0].all()


def test_crowds_and_empty_masks_are_not_pasted(masked):
    first = painted(0, [(2, 2, 10, 10)])
    none = [np.ones((4, 4), np.uint8), np.zeros((4, 4), np.uint8)]
    second = painted(1, [(3, 3, 7, 7), (9, 9, 13, 13)], crowd=[1, 0], masks=none)
    row, _ = pasted(first, second, Donor(True, True), masked)
    expected, _ = make_row(first, Transform(STILL), SIZE, masked)
    for key, value in expected.items():
        np.testing.assert_array_equal(row[key], value, err_msg=key)


def test_pasted_pixels_have_the_label_of_what_was_pasted(masked):
    first, second = painted(0, []), painted(1, [(4, 4, 12, 12)], np.array([2]))
    masked.semantic, masked.semantic_stride = "all", 4
    row, _ = pasted(first, second, Donor(True), masked)
    expected = np.full((6, 8), 5)
    expected[1:3, 1:3] = 2
    np.testing.assert_array_equal(row["semantic"], expected)
    masked.semantic = "stuff"  # all things are one class, 0; of stuff, 3 is the first
    row, _ = pasted(first, second, Donor(True), masked)
    np.testing.assert_array_equal(row["semantic"], np.where(expected == 2, 0, 3))


def test_the_image_reaches_around_what_is_pasted_beside_it(masked):
    first, second = painted(0, [(2, 2, 10, 10)]), painted(1, [(3, 3, 9, 14)])
    small = Placement(SIZE, (12, 16), (0, 0), (12, 16), flip=False)
    row, _ = make_pasted_row(
        Listed([first, second]),
        Augmentation(),
        first,
        Transform(small, donor=Donor(True)),
        SIZE,
        masked,
        np.random.default_rng(0),
    )
    np.testing.assert_array_equal(row["image_size"], (14, 16))
    assert (row["image"][13, 3:9] == 80).all() and not row["image"][13, 9:].any()


def test_an_image_that_cannot_be_read_is_not_pasted(masked):
    first, second = painted(0, [(2, 2, 10, 10)]), painted(1, [(3, 3, 9, 14)])
    for wrong in ({"image": b"none"}, {"height": 0}):
        row, _ = pasted(first, second | wrong, Donor(True), masked)
        assert row["valid"].sum() == 1 and (row["image"] == 40).all()


@pytest.mark.parametrize("flip", [False, True])
def test_bitmaps_go_where_a_slow_loop_puts_them(flip):
    """Pixel by pixel: half of what a pixel of the frame is made of, or more."""
    rng = np.random.default_rng(3)
    mask = (rng.random((18, 20)) < 0.6).astype(np.uint8)
    box = np.array([[4.0, 2.0, 24.0, 20.0]])
    place = Placement(SIZE, (12, 16), (1, 3), (9, 11), flip)
    moved, keep = place.boxes(box)
    (found,) = place.bitmaps([mask], box, moved)
    assert keep.all()
    whole = np.zeros(SIZE)
    whole[2:20, 4:24] = mask
    x1, y1, x2, y2 = windows(moved)[0]
    for y in range(y1, y2):
        for x in range(x1, x2):
            column = 3 + (11 - 1 - x if flip else x)
            rows = slice(2 * (y + 1), 2 * (y + 2))
            share = whole[rows, 2 * column : 2 * column + 2].mean()
            assert found[y - y1, x - x1] == (share >= 0.5), (y, x)


def test_objects_drawn_later_are_on_top():
    example = painted(0, [(0, 0, 6, 6), (4, 4, 10, 10)])
    objects = Objects.of(example, Transform(STILL))
    drawn = objects.map_of(np.array([7, 8]), SIZE)
    assert drawn[5, 5] == 8 and drawn[3, 3] == 7 and drawn[20, 20] == -1


def test_the_stream_pastes_as_often_as_asked_and_changes_nothing_else(masked):
    source = Listed([painted(i, [(2 + i, 2, 12 + i, 12)]) for i in range(6)])
    masked.scale_range = (0.5, 1.5)
    plain, _ = take(source, masked, 12, size=SIZE)
    masked.copy_paste = 0.5
    some, _ = take(source, masked, 12, size=SIZE)
    again, _ = take(source, masked, 12, size=SIZE)
    same = []
    for one, other, repeated in zip(plain, some, again, strict=True):
        np.testing.assert_array_equal(other.image, repeated.image)
        same += (one.image == other.image).all(axis=(1, 2, 3)).tolist()
        assert np.array_equal(one.image_id, other.image_id)
    # Half are asked for, and of the one object that there is half are taken.
    assert 0.55 < np.mean(same) < 0.95


def test_the_probability_decides_about_nothing_else():
    rng, often = np.random.default_rng, Augmentation(copy_paste=1.0)
    one, other = (sample(rng(0), (60, 200), SIZE, a) for a in (Augmentation(), often))
    assert one.donor is None and other.donor is not None
    assert one == dataclasses.replace(other, donor=None)


@pytest.mark.parametrize("wrong", [{"copy_paste": 1.5}, {"mask_size": 0}])
def test_what_cannot_be_asked_for_is_said(masked, wrong):
    masked.copy_paste = 0.5
    masked.update(wrong)
    with pytest.raises(DataError, match=r"copy_paste is .*; it must lie in 0 \.\. 1"):
        take(Listed([painted(0, [])]), masked, 1, size=SIZE)
