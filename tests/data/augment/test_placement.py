"""Placement: pixels and boxes go the same way, beside slow oracles."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from placements import random_placement

from agvm_jax.data.augment.augmentation import still_placement
from agvm_jax.data.augment.placement import Placement


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    frame=st.tuples(st.integers(8, 200), st.integers(8, 200)),
    scales=st.tuples(st.floats(0.1, 1.0), st.floats(1.0, 3.0)),
)
def test_a_random_window_lies_in_the_image_and_in_the_frame(seed, size, frame, scales):
    rng = np.random.default_rng(seed)
    place = random_placement(rng, size, frame, 0.5, scales)
    for k in range(2):
        assert 1 <= place.window[k] <= frame[k]
        assert 0 <= place.corner[k] <= place.resized[k] - place.window[k]


def slow_boxes(place, boxes):
    """One box at a time, one step at a time."""
    out = []
    for x1, y1, x2, y2 in boxes.tolist():
        xs = [x * place.resized[1] / place.size[1] - place.corner[1] for x in (x1, x2)]
        ys = [y * place.resized[0] / place.size[0] - place.corner[0] for y in (y1, y2)]
        if place.flip:
            xs = [place.window[1] - xs[1], place.window[1] - xs[0]]
        xs = [min(max(x, 0.0), place.window[1]) for x in xs]
        ys = [min(max(y, 0.0), place.window[0]) for y in ys]
        out.append([xs[0], ys[0], xs[1], ys[1]])
    return np.array(out, np.float64).reshape(-1, 4)


@pytest.mark.parametrize("seed", range(20))
def test_boxes_go_the_way_of_the_slow_oracle(seed):
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(20, 200, 2).tolist())
    place = random_placement(rng, size, (90, 120), 0.5, (0.3, 2.0))
    corners = rng.uniform(0, 1, (40, 2, 2)) * size[::-1]
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1).astype(np.float32)
    ours, keep = place.boxes(boxes)
    slow = slow_boxes(place, boxes)
    np.testing.assert_allclose(ours, slow, atol=1e-4)
    areas = (slow[:, 2] - slow[:, 0]) * (slow[:, 3] - slow[:, 1])
    assert keep[areas > 1e-3].all() and not keep[areas <= 0].any()
    assert ours.dtype == np.float32


@pytest.mark.parametrize("seed", range(25))
def test_a_painted_box_is_found_again_where_its_box_went(seed):
    """Pixels and boxes are moved by different code; an image shows that they agree."""
    rng = np.random.default_rng(seed)
    size, frame = tuple(rng.integers(40, 160, 2).tolist()), (96, 128)
    y1, x1 = (int(rng.integers(0, s // 2)) for s in size)
    y2, x2 = int(rng.integers(y1 + 12, size[0])), int(rng.integers(x1 + 12, size[1]))
    image = np.zeros((*size, 3), np.uint8)
    image[y1:y2, x1:x2] = 255
    place = random_placement(rng, size, frame, 0.5, (0.5, 1.8))
    boxes, keep = place.boxes(np.array([[x1, y1, x2, y2]], np.float32))
    framed = place.image(image, frame)
    assert framed.shape == (*frame, 3)
    found = np.argwhere(framed[..., 0] >= 128)
    if not keep[0] or (boxes[0, 2:] - boxes[0, :2]).min() < 2:
        return
    (top, left), (bottom, right) = found.min(0), found.max(0) + 1
    # Interpolation spreads an edge over one resized pixel of the original.
    slack = 0.51 + 0.5 * max(place.resized[0] / size[0], 1.0)
    np.testing.assert_allclose([left, top, right, bottom], boxes[0], atol=slack)


def test_the_seeds_above_cover_flips_and_crops():
    seen = set()
    for seed in range(25):
        rng = np.random.default_rng(seed)
        place = random_placement(rng, (100, 100), (96, 128), 0.5, (0.5, 1.8))
        seen.add((place.flip, place.window != place.resized))
    assert len(seen) == 4


def test_outside_the_window_the_frame_is_black_and_the_image_is_top_left():
    image = np.full((30, 40, 3), 200, np.uint8)
    place = still_placement((30, 40), (60, 60))
    framed = place.image(image, (60, 60))
    assert place.window == (45, 60)
    assert (framed[:45] == 200).all() and (framed[45:] == 0).all()


def test_a_box_divided_by_the_window_gives_original_pixels_back():
    place = still_placement((333, 517), (128, 160))
    box = np.array([[31.5, 20.25, 400.0, 300.75]], np.float32)
    moved, _ = place.boxes(box)
    height, width = place.window
    back = moved / (width, height, width, height) * (517, 333, 517, 333)
    np.testing.assert_allclose(back, box, rtol=1e-5)


def test_flipping_twice_gives_the_image_and_its_boxes_back():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (20, 30, 3), np.uint8)
    place = Placement((20, 30), (20, 30), (0, 0), (20, 30), flip=True)
    box = np.array([[3, 4, 11, 9]], np.float32)
    once, _ = place.boxes(box)
    np.testing.assert_array_equal(once, [[19, 4, 27, 9]])
    np.testing.assert_array_equal(place.boxes(once)[0], box)
    np.testing.assert_array_equal(place.image(image, (20, 30)), image[:, ::-1])


def test_shrinking_averages_over_pixels_as_a_slow_loop_does():
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (24, 36, 3), np.uint8)
    framed = still_placement((24, 36), (8, 12)).image(image, (8, 12))
    slow = np.zeros((8, 12, 3))
    for y in range(8):
        for x in range(12):
            slow[y, x] = image[3 * y : 3 * y + 3, 3 * x : 3 * x + 3].mean(axis=(0, 1))
    np.testing.assert_allclose(framed, slow, atol=1)


@pytest.mark.parametrize("size", [(163, 241), (160, 241), (167, 247), (160, 240)])
@pytest.mark.parametrize("divisor", [2, 4, 8])
def test_an_image_decoded_small_lands_where_the_whole_one_would(size, divisor):
    """An edge in the last rows moves by less than a tenth of a pixel."""
    ramp = np.add.outer(np.arange(size[0]), np.arange(size[1])).astype(np.float64)
    ramp = (ramp * (250 / ramp.max()))[..., None].repeat(3, axis=2)
    # What decoding at 1/divisor gives: block means, the image's edge continued.
    pad = [(0, -size[k] % divisor) for k in range(2)] + [(0, 0)]
    padded = np.pad(ramp, pad, mode="reflect", reflect_type="odd")
    blocks = padded.reshape(
        padded.shape[0] // divisor, divisor, padded.shape[1] // divisor, divisor, 3
    )
    small = np.round(blocks.mean(axis=(1, 3))).astype(np.uint8)
    place = still_placement(size, (18, 27))
    ours = place.image(small, (18, 27), divisor).astype(float)
    height, width = place.window
    y = (np.arange(height) + 0.5) * size[0] / height - 0.5
    x = (np.arange(width) + 0.5) * size[1] / width - 0.5
    exact = np.add.outer(y, x) * (250 / (size[0] + size[1] - 2))
    a_pixel = 250 / (height + width)
    inner = np.s_[1:-1, 1:-1]  # the border is replicated, not continued
    error = np.abs(ours[:height, :width, 0] - exact)[inner]
    assert error.max() < 0.1 * a_pixel + 1


def shares(whole, exact, count):
    """(count, whole): how much of each decoded pixel a pixel of the result averages."""
    edges = np.arange(count + 1)[:, None] * exact / count
    covered = np.clip(edges - np.arange(whole), 0, 1)
    return np.diff(covered, axis=0) * count / exact


@pytest.mark.parametrize("size", [(163, 241), (160, 241), (167, 247), (160, 240)])
@pytest.mark.parametrize("divisor", [1, 2, 4, 8])
def test_whatever_the_size_a_pixel_is_the_mean_of_what_it_covers(size, divisor):
    """Nothing falls between samples, and the last decoded pixel counts for its share.

    Random pixels are the finest pattern there is: sampling them is off by dozens of
    grey levels.
    """
    decoded = [-(-side // divisor) for side in size]
    small = np.random.default_rng(0).integers(0, 256, (*decoded, 3), np.uint8)
    resized, corner, window = (16, 24), (3, 5), (11, 15)
    rows, columns = (
        shares(decoded[k], size[k] / divisor, resized[k]) for k in range(2)
    )
    exact = np.einsum("yi,ijc,xj->yxc", rows, small.astype(float), columns)
    whole = Placement(size, resized, (0, 0), resized, flip=False)
    np.testing.assert_allclose(whole.image(small, resized, divisor), exact, atol=0.51)
    part = Placement(size, resized, corner, window, flip=True)
    np.testing.assert_allclose(
        part.image(small, window, divisor), exact[3:14, 5:20][:, ::-1], atol=0.51
    )


def test_an_image_of_one_row_is_averaged_along_it():
    line = np.tile(np.array([0, 0, 0, 200], np.uint8), 20)[None, :, None].repeat(3, 2)
    shown = still_placement((1, 80), (10, 10)).image(line, (10, 10))
    assert (shown[0] == 50).all()


def test_no_box_means_no_box():
    boxes, keep = still_placement((20, 30), (60, 60)).boxes(np.zeros((0, 4)))
    assert boxes.shape == (0, 4) and keep.shape == (0,)


def test_flip_and_scale_do_not_change_what_the_other_samples():
    def placed(flip, scales):
        return random_placement(
            np.random.default_rng(3), (50, 50), (64, 64), flip, scales
        )

    still, flipped = placed(0.0, (0.5, 1.5)), placed(1.0, (0.5, 1.5))
    assert (still.resized, still.corner) == (flipped.resized, flipped.corner)
    assert not still.flip and flipped.flip
    assert placed(1.0, (1.0, 1.0)) == Placement(
        (50, 50), (64, 64), (0, 0), (64, 64), True
    )


def test_a_window_may_lie_anywhere_in_the_image():
    rng = np.random.default_rng(0)
    places = [
        random_placement(rng, (6, 6), (3, 4), 0.0, (2.0, 2.0)) for _ in range(200)
    ]
    # 6 x 6 fills 3 x 4 as 3 x 3; twice as large it is 6 x 6.
    assert {place.corner for place in places} == {
        (y, x) for y in range(4) for x in range(3)
    }


def test_the_flip_probability_is_kept():
    rng = np.random.default_rng(0)
    flips = [
        random_placement(rng, (9, 9), (9, 9), 0.25, (1.0, 1.0)).flip
        for _ in range(2000)
    ]
    assert 0.22 < np.mean(flips) < 0.28


def test_growing_uses_linear_interpolation():
    image = np.zeros((2, 2, 3), np.uint8)
    image[:, 1] = 200
    framed = still_placement((2, 2), (8, 8)).image(image, (8, 8))
    expected = cv2.resize(image, (8, 8), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(framed, expected)
    assert (np.diff(framed[0, :, 0].astype(int)) >= 0).all()
