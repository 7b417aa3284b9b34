"""Every augmentation at once, on boxes, masks and label maps, beside slow loops."""

import dataclasses

import cv2
import numpy as np
import pytest

from agvm_jax.data.annotations.objects import pack
from agvm_jax.data.annotations.segments import segments_from_labels, store_segments
from agvm_jax.data.augment.augmentation import (
    Augmentation,
    Drawn,
    Resizing,
    draw,
)
from agvm_jax.data.augment.color import ColorJitter
from agvm_jax.data.augment.cropping import Cropping
from agvm_jax.data.example import make_row
from configs import base

FRAME = (40, 56)
SIDE = 8  # of masks
EVERYTHING = {
    "jitter": Augmentation(0.5, (0.1, 2.0)),
    "multi-scale": Augmentation(0.5, resizing=Resizing((20, 30, 40), 50)),
    "frame crop": Augmentation(0.5, (0.5, 2), Resizing((40,), 160, fits=False)),
    "size crop": Augmentation(0.5, cropping=Cropping("size", (0.3, 0.9))),
    "iou crop": Augmentation(0.5, cropping=Cropping("iou")),
    "all": Augmentation(
        0.5,
        (0.5, 1.5),
        Resizing((24, 36), 50),
        Cropping("size", (0.3, 0.8), 0.9),
        ColorJitter(0.125, 0.5, 0.5, 0.05),
    ),
}


@pytest.fixture
def config():
    data = base.get_config().data
    data.mask_size, data.semantic, data.semantic_stride = SIDE, "all", 4
    data.max_boxes = 5
    return data


def made_up(rng, size=(30, 44), objects=4):
    """A random example with blobs for masks and a label map, and its plain arrays."""
    height, width = size
    corner = np.floor(rng.uniform(0, 0.6, (objects, 2)) * (width, height))
    extent = np.floor(rng.uniform(0.2, 0.4, (objects, 2)) * (width, height))
    boxes = np.hstack([corner, corner + extent]).astype(np.float32)
    bitmaps = [rng.random((int(h), int(w))) < 0.6 for w, h in extent]
    labels = rng.integers(-1, 4, size).astype(np.int32)
    labels = cv2.resize(labels[::5, ::5], size[::-1], interpolation=cv2.INTER_NEAREST)
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    example = {
        "image": cv2.imencode(".png", image)[1].tobytes(),
        "file_name": "x.png",
        "image_id": 1,
        "height": height,
        "width": width,
        "boxes": boxes,
        "classes": np.arange(objects, dtype=np.int32),
        "turn": 1,
        "crowd": np.arange(objects) == 0,
        "masks": pack(bitmaps),
        "things": 0,
        **store_segments(segments_from_labels(labels)),
    }
    return example, bitmaps, labels


def original(place, y, x):
    """A point of the frame in pixels of the original picture."""
    if place.flip:
        x = place.window[1] - x
    return (
        (y + place.corner[0]) * place.size[0] / place.resized[0],
        (x + place.corner[1]) * place.size[1] / place.resized[1],
    )


def slow_box(place, box):
    """Each corner walked through on its own; None when nothing is left."""
    x1, y1, x2, y2 = (float(v) for v in box)
    sy, sx = (place.resized[k] / place.size[k] for k in range(2))
    xs = [x * sx - place.corner[1] for x in (x1, x2)]
    ys = [y * sy - place.corner[0] for y in (y1, y2)]
    if place.flip:
        xs = [place.window[1] - xs[1], place.window[1] - xs[0]]
    xs = [min(max(x, 0.0), place.window[1]) for x in xs]
    ys = [min(max(y, 0.0), place.window[0]) for y in ys]
    if xs[1] - xs[0] < 1e-5 or ys[1] - ys[0] < 1e-5:
        return None
    return [xs[0], ys[0], xs[1], ys[1]]


def slow_mask(place, bitmap, box, moved):
    """Share of each cell that is covered, from 12 x 12 points in it."""
    out = np.zeros((SIDE, SIDE))
    for i in range(SIDE):
        for j in range(SIDE):
            hits = 0
            for a in range(12):
                for b in range(12):
                    v, u = (i + (a + 0.5) / 12) / SIDE, (j + (b + 0.5) / 12) / SIDE
                    y = moved[1] + v * (moved[3] - moved[1])
                    x = moved[0] + u * (moved[2] - moved[0])
                    y, x = original(place, y, x)
                    y, x = int(np.floor(y - box[1])), int(np.floor(x - box[0]))
                    if 0 <= y < bitmap.shape[0] and 0 <= x < bitmap.shape[1]:
                        hits += bitmap[y, x]
            out[i, j] = hits / 144
    return out


def slow_labels(place, labels):
    """The label under each cell's centre; -1 outside the window."""
    out = np.full((FRAME[0] // 4, FRAME[1] // 4), -1)
    for i, j in np.ndindex(out.shape):
        y, x = 4 * i + 2, 4 * j + 2
        if y < place.window[0] and x < place.window[1]:
            y, x = original(place, y, x)
            y, x = min(int(y), place.size[0] - 1), min(int(x), place.size[1] - 1)
            out[i, j] = labels[y, x]
    return out


def slow_keeps(drawn, box, crowd):
    if drawn.centers is None or crowd:
        return True
    y, x, height, width = drawn.centers
    return (
        x <= (box[0] + box[2]) / 2 < x + width
        and y <= (box[1] + box[3]) / 2 < y + height
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", EVERYTHING)
def test_boxes_masks_and_labels_go_the_same_way_as_slow_loops(name, seed, config):
    rng = np.random.default_rng(seed)
    example, bitmaps, labels = made_up(rng)
    targets = example["boxes"][~example["crowd"]]
    drawn = draw(rng, (30, 44), FRAME, EVERYTHING[name], targets)
    place = drawn.placement
    row, dropped = make_row(example, drawn, FRAME, config)
    assert dropped == (0, 0) and row["image_size"].tolist() == list(place.window)
    expected = [
        (k, slow_box(place, example["boxes"][k]))
        for k in range(4)
        if slow_keeps(drawn, example["boxes"][k], example["crowd"][k])
    ]
    expected = [(k, box) for k, box in expected if box is not None]
    # Nothing invented, nothing lost, in the file's order.
    assert row["classes"][row["valid"]].tolist() == [k for k, _ in expected]
    assert row["valid"].sum() == len(expected)
    for i, (k, box) in enumerate(expected):
        np.testing.assert_allclose(row["boxes"][i], box, atol=1e-4)
        assert row["crowd"][i] == (k == 0)
        shares = slow_mask(place, bitmaps[k], example["boxes"][k], box)
        sure = np.abs(shares - 0.5) > 0.1  # 144 points do not tell a half exactly
        np.testing.assert_array_equal(row["masks"][i][sure], shares[sure] > 0.5)
    np.testing.assert_array_equal(row["semantic"], slow_labels(place, labels))


def test_the_draws_above_lose_objects_by_every_augmentation_that_crops():
    for name in ("jitter", "size crop", "iou crop", "all"):
        lost = 0
        for seed in range(5):
            rng = np.random.default_rng(seed)
            example, *_ = made_up(rng)
            targets = example["boxes"][~example["crowd"]]
            drawn = draw(rng, (30, 44), FRAME, EVERYTHING[name], targets)
            _, keep = drawn.placement.boxes(example["boxes"])
            lost += 4 - (keep & drawn.keeps(example["boxes"], example["crowd"])).sum()
        assert lost > 0, name


def test_pixels_go_where_the_labels_go():
    """Pictures painted by label: away from edges they show their label."""
    checked = [_check_painted_labels(np.random.default_rng(seed)) for seed in range(20)]
    assert np.mean(checked) > 0.2


def _check_painted_labels(rng):
    """Returns the share of pixels that could be compared."""
    labels = cv2.resize(
        rng.integers(0, 4, (3, 4)).astype(np.int32),
        (88, 60),
        interpolation=cv2.INTER_NEAREST,
    )
    image = np.repeat((labels * 60 + 20).astype(np.uint8)[..., None], 3, axis=2)
    rules = dataclasses.replace(EVERYTHING["all"], color=ColorJitter())
    place = draw(rng, (60, 88), FRAME, rules).placement
    shown = place.image(image, FRAME)[..., 0].astype(int)
    ours = place.labels(labels, FRAME, stride=1)
    assert (shown[ours < 0] == 0).all()
    expected = np.where(ours < 0, 0, ours * 60 + 20)
    # Interpolation mixes two labels along an edge, half a pixel of the original to each
    # side; an edge may also lie just beyond the window.
    reach = int(np.ceil(0.5 * max(1.0, place.resized[0] / place.size[0]))) + 1
    padded = np.pad(expected, 1, constant_values=-100).astype(np.float32)
    edges = (cv2.Laplacian(padded, cv2.CV_32F) != 0).astype(np.uint8)
    edges[0] = edges[-1] = edges[:, 0] = edges[:, -1] = 1
    near = cv2.dilate(edges, np.ones((2 * reach + 1,) * 2, np.uint8))[1:-1, 1:-1] > 0
    assert (np.abs(shown - expected)[~near] <= 2).all()
    return (~near).mean()


def test_an_enlarged_window_is_cut_from_the_whole_enlarged_picture():
    """The window alone is computed; the whole picture, cut after, shows the same."""
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (30, 44, 3), np.uint8), (5, 5), 1.5)
    for seed in range(10):
        rules = Augmentation(0.5, (1.5, 2.0))
        place = draw(np.random.default_rng(seed), (30, 44), FRAME, rules).placement
        whole = cv2.resize(image, place.resized[::-1], interpolation=cv2.INTER_LINEAR)
        (y, x), (height, width) = place.corner, place.window
        cut = whole[y : y + height, x : x + width]
        cut = cut[:, ::-1] if place.flip else cut
        ours = place.image(image, FRAME)[:height, :width]
        assert np.abs(ours.astype(int) - cut).max() <= 4  # steps of 1/32 pixel
        assert np.abs(ours.astype(int) - cut).mean() < 0.7


def test_one_key_does_not_change_what_another_draws():
    """Flip, scale, window are the same beside colours; flip and side beside a crop."""
    plain, colored = (
        draw(np.random.default_rng(4), (50, 60), FRAME, rules)
        for rules in (
            Augmentation(0.5, (0.5, 2.0)),
            Augmentation(0.5, (0.5, 2.0), color=ColorJitter(hue=0.1)),
        )
    )
    assert plain.placement == colored.placement
    assert plain.colors is None and colored.colors is not None
    resizing, crop = Resizing((10, 20, 30)), Cropping("size", (0.8, 0.8))
    seen = set()
    for seed in range(30):
        whole, cut = (
            draw(np.random.default_rng(seed), (50, 50), FRAME, rules).placement
            for rules in (
                Augmentation(0.5, resizing=resizing),
                Augmentation(0.5, resizing=resizing, cropping=crop),
            )
        )
        assert whole.flip == cut.flip and whole.window == cut.window
        seen.add((whole.flip, whole.window))
    assert len(seen) == 6


def test_scale_crop_and_colour_are_drawn_apart_from_each_other():
    """Seeded alike, whatever is cropped would be brightened as well."""
    rules = Augmentation(
        resizing=Resizing((20, 30)),
        cropping=Cropping("size", (0.5, 0.5), probability=0.5),
        color=ColorJitter(brightness=0.1),
    )
    happened = []
    for seed in range(200):
        drawn = draw(np.random.default_rng(seed), (60, 60), (60, 60), rules)
        place = drawn.placement
        happened.append(
            (
                min(place.window) == 30,  # the larger of the two sides
                place.window != place.resized,
                drawn.colors.brightness != 0,
            )
        )
    happened = np.array(happened)
    assert ((happened.mean(axis=0) > 0.35) & (happened.mean(axis=0) < 0.65)).all()
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert 0.35 < (happened[:, a] == happened[:, b]).mean() < 0.65


def test_the_generator_moves_on_by_the_same_four_numbers_whatever_is_drawn():
    after = set()
    for rules in EVERYTHING.values():
        rng = np.random.default_rng(0)
        draw(rng, (30, 44), FRAME, rules, np.array([[1.0, 2.0, 20.0, 20.0]]))
        after.add(float(rng.random()))
    assert len(after) == 1


def test_a_crowd_region_stays_though_its_centre_is_cut_away(config):
    example, *_ = made_up(np.random.default_rng(0))
    example["boxes"] = np.array([[0, 0, 40, 28], [0, 0, 40, 28]] * 2, np.float32)
    bitmaps = [np.ones((28, 40), bool)] * 4
    example["masks"] = pack(bitmaps)
    place = draw(np.random.default_rng(0), (30, 44), FRAME, Augmentation()).placement
    row, _ = make_row(example, Drawn(place, centers=(0, 0, 10, 10)), FRAME, config)
    assert row["valid"].sum() == 1 and row["crowd"][0]
