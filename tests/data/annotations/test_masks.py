"""Masks: beside pycocotools, slow oracles, and the pictures that they belong to."""

import pathlib

import hotcoco
import numpy as np
import pytest
from coco_files import run_lengths
from hypothesis import given, settings
from hypothesis import strategies as st
from placements import random_placement
from pycocotools import mask as pycoco

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.annotations.objects import bitmap, pack, unpack, windows
from agvm_jax.data.augment.placement import Placement, crop_masks
from agvm_jax.data.dataset import open_dataset
from agvm_jax.data.formats import files
from agvm_jax.data.pipeline import eval_batches, train_batches

# pycocotools and numpy 2 disagree about the copy keyword; it works all the same.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")


def crop_mask(bitmap, region, side):
    (mask,) = crop_masks([bitmap], np.array([region], np.float64), side)
    return mask


def blob(rng, height, width):
    """A random mask with some structure: a thresholded sum of waves."""
    y, x = np.mgrid[:height, :width]
    waves = sum(
        np.sin(rng.uniform(0, 1) * x + rng.uniform(0, 1) * y + rng.uniform(0, 6))
        for _ in range(3)
    )
    return waves > rng.uniform(-1, 1)


def star(rng, centre, radius, corners=9):
    """A polygon around a centre, (2p,) x y x y ..."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    reach = rng.uniform(0.5, 1, corners) * radius
    points = np.stack([np.cos(angles), np.sin(angles)], 1) * reach[:, None] + centre
    return points.ravel()


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_run_lengths_are_those_of_pycocotools(seed, size):
    mask = blob(np.random.default_rng(seed), *size)
    theirs = pycoco.encode(np.asfortranarray(mask.astype(np.uint8)))
    text = theirs | {"counts": theirs["counts"].decode()}
    for written in (run_lengths(mask), text):
        read = files.run_lengths(written, list(size), "it", pathlib.Path("set.json"))
        assert read == {"size": list(size), "counts": theirs["counts"]}
        found = bitmap(read, (0, 0, size[1], size[0]))
        np.testing.assert_array_equal(found, mask)


@pytest.mark.parametrize("text", ["\x7f", "é0", "P", "`" * 30, " "])
def test_text_that_holds_no_run_lengths_is_refused(text):
    with pytest.raises(DataError, match="counts"):
        files.run_lengths(
            {"size": [5, 7], "counts": text}, [0, 0], "it", pathlib.Path("set.json")
        )


@pytest.mark.parametrize("seed", range(12))
def test_polygons_are_filled_as_a_slow_count_of_points_says(seed):
    """Each pixel's share is counted at 16 x 16 points by the crossing rule."""
    rng = np.random.default_rng(seed)
    polygon = star(rng, rng.uniform(8, 22, 2), rng.uniform(5, 14))
    window = (3, 5, 27, 25)
    ours = bitmap([polygon], window)
    offsets = (np.arange(16) + 0.5) / 16
    y = (np.arange(5, 25)[:, None] + offsets).ravel()
    x = (np.arange(3, 27)[:, None] + offsets).ravel()
    inside = np.zeros((len(y), len(x)), bool)
    points = polygon.reshape(-1, 2)
    for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, axis=0), strict=True):
        crosses = (y1 > y) != (y2 > y)
        at = x1 + (y - y1) * (x2 - x1) / (y2 - y1)
        inside ^= crosses[:, None] & (x < at[:, None])
    share = inside.reshape(20, 16, 24, 16).mean(axis=(1, 3))
    # Only pixels that are nearly half covered may differ.
    assert (np.abs(share - 0.5)[ours != (share >= 0.5)] < 0.17).all()
    assert (ours != (share >= 0.5)).mean() < 0.02


def test_polygons_agree_with_pycocotools_and_overlapping_ones_unite():
    rng = np.random.default_rng(0)
    overlaps = []
    for _ in range(60):
        centre = rng.uniform(30, 70, 2)
        polygons = [star(rng, centre + rng.uniform(-9, 9, 2), 25) for _ in range(2)]
        theirs = pycoco.decode(
            pycoco.merge(pycoco.frPyObjects([p.tolist() for p in polygons], 100, 100))
        ).astype(bool)
        ours = bitmap(polygons, (0, 0, 100, 100))
        overlaps.append((ours & theirs).sum() / (ours | theirs).sum())
    assert np.mean(overlaps) > 0.96 and min(overlaps) > 0.85


def test_a_window_sees_its_part_of_the_mask():
    rng = np.random.default_rng(1)
    polygon = star(rng, (40, 30), 25)
    mask = blob(rng, 60, 80)
    for segmentation in ([polygon], hotcoco.mask.encode(mask)):
        whole = bitmap(segmentation, (0, 0, 80, 60))
        part = bitmap(segmentation, (17, 11, 52, 48))
        assert (part != whole[11:48, 17:52]).mean() < 0.01
    beyond = bitmap(hotcoco.mask.encode(mask), (70, 50, 90, 70))
    np.testing.assert_array_equal(beyond[:10, :10], mask[50:, 70:])
    assert not beyond[10:].any() and not beyond[:, 10:].any()
    assert not bitmap(None, (1, 1, 4, 3)).any()


def test_points_far_outside_neither_fail_nor_fill_the_wrong_side():
    polygon = np.array([-1e29, -1e29, 10, -1e29, 10, 1e29, -1e29, 1e29])
    np.testing.assert_array_equal(
        bitmap([polygon], (5, 0, 15, 4)), [[True] * 5 + [False] * 5] * 4
    )


def test_packed_bitmaps_come_back():
    rng = np.random.default_rng(2)
    corners = rng.uniform(0, 50, (7, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0.1, 30, (7, 2))], axis=1)
    bitmaps = [blob(rng, y2 - y1, x2 - x1) for x1, y1, x2, y2 in windows(boxes)]
    back = unpack(pack(bitmaps), boxes)
    for one, other in zip(bitmaps, back, strict=True):
        np.testing.assert_array_equal(one, other)
    assert unpack(pack([]), np.zeros((0, 4))) == []


def test_edges_between_pixels_are_on_either_side_where_they_should_be():
    """Of pixels 1 and 5 the square covers a share of 0.6 or 0.35, of corners less."""
    for share, inside in ((0.6, slice(1, 6)), (0.35, slice(2, 5))):
        low, high = 2 - share, 5 + share
        square = np.array([low, low, high, low, high, high, low, high])
        expected = np.zeros((7, 7), bool)
        expected[inside, 2:5] = expected[2:5, inside] = True
        found = bitmap([square], (0, 0, 7, 7))
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("flip", [False, True])
def test_a_box_between_pixels_has_the_mask_that_lies_in_it(flip):
    """The bitmap begins at a whole pixel, the box does not."""
    whole = blob(np.random.default_rng(1), 24, 30)
    box = np.array([[3.6, 2.7, 21.2, 19.4]], np.float32)
    x1, y1, x2, y2 = windows(box)[0]
    place = Placement((24, 30), (24, 30), (0, 0), (24, 30), flip)
    moved, _ = place.boxes(box)
    (ours,) = place.masks([whole[y1:y2, x1:x2]], box, moved, 9)
    expected = crop_mask(whole, box[0], 9)
    np.testing.assert_array_equal(ours, expected[:, ::-1] if flip else expected)


@pytest.mark.parametrize("seed", range(15))
def test_a_cropped_mask_is_the_slow_mean_of_many_points(seed):
    rng = np.random.default_rng(seed)
    picture = blob(rng, *rng.integers(3, 40, 2))
    x1, y1 = rng.uniform(-2, 2, 2)
    region = (x1, y1, x1 + rng.uniform(1, 45), y1 + rng.uniform(1, 45))
    side = int(rng.integers(1, 15))
    ours = crop_mask(picture, region, side)
    points = 40
    xs = region[0] + (np.arange(side * points) + 0.5) * (
        (region[2] - region[0]) / (side * points)
    )
    ys = region[1] + (np.arange(side * points) + 0.5) * (
        (region[3] - region[1]) / (side * points)
    )
    padded = np.pad(picture, 60)
    sampled = padded[np.floor(ys).astype(int) + 60][:, np.floor(xs).astype(int) + 60]
    share = sampled.reshape(side, points, side, points).mean(axis=(1, 3))
    least = 0.5 if share.max() >= 0.5 else share.max() / 2  # of thin ones the most
    assert (np.abs(share - least)[ours != (share >= least)] < 0.05).all()
    assert ours.dtype == np.uint8 and ours.shape == (side, side)


@pytest.mark.parametrize("seed", range(12))
def test_masks_go_where_their_pixels_go(seed):
    """A mask painted into the picture, moved with it and cut out is the moved mask."""
    rng = np.random.default_rng(seed)
    size, frame, side = (90, 120), (96, 96), 12
    polygon = star(rng, rng.uniform((30, 30), (90, 60)), rng.uniform(18, 30))
    whole = bitmap([polygon], (0, 0, size[1], size[0]))
    y, x = np.nonzero(whole)
    box = np.array([[x.min(), y.min(), x.max() + 1, y.max() + 1]], np.float32)
    place = random_placement(rng, size, frame, 0.5, (0.7, 1.6))
    moved, keep = place.boxes(box)
    if not keep[0] or (moved[0, 2:] - moved[0, :2]).min() < 8:
        pytest.skip("this crop leaves next to nothing")
    inside = bitmap([polygon], windows(box)[0])
    ours = place.masks([inside], box, moved, side)[0]
    picture = place.image(np.repeat(whole[..., None] * np.uint8(255), 3, 2), frame)
    seen = crop_mask(picture[..., 0] >= 128, moved[0], side)
    assert (ours != seen).mean() < 0.06
    assert ours.any() and not ours.all()


def test_the_masks_of_a_batch_are_those_of_the_drawn_shapes(data_config):
    data_config.mask_size = 14
    dataset = open_dataset(data_config)
    assert dataset.train.report.masks == dataset.train.report.boxes
    (batch, *_) = eval_batches(
        dataset.val, image_size=(64, 48), batch_size=5, data_config=data_config
    )
    assert batch.masks.shape == (5, 100, 14, 14) and batch.masks.dtype == np.uint8
    truth = dataset.val.ground_truth()["annotations"]
    row = 0
    for i, image_id in enumerate(batch.image_id):
        for j, a in enumerate(a for a in truth if a["image_id"] == image_id):
            decoded = pycoco.decode(a["segmentation"])
            x, y, w, h = (int(v) for v in a["bbox"])
            expected = crop_mask(decoded[y : y + h, x : x + w], (0, 0, w, h), 14)
            np.testing.assert_array_equal(batch.masks[i, j], expected)
            row += 1
        assert not batch.masks[i][~batch.valid[i]].any()
    assert row == len(truth) > 0


def test_training_batches_carry_masks_for_the_objects_that_are_kept(data_config):
    data_config.mask_size, data_config.max_boxes = 8, 2
    data_config.scale_range = (0.5, 2.0)
    source = open_dataset(data_config).train
    batches = train_batches(
        source, image_size=64, batch_size=8, seed=0, data_config=data_config
    )
    batch = next(batches)
    batches.close()
    assert batch.masks.shape == (8, 2, 8, 8)
    filled = batch.masks.mean(axis=(2, 3))[batch.valid]
    assert (filled > 0.1).mean() > 0.9 and not batch.masks[~batch.valid].any()
