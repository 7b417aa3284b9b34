"""The generated data set: deterministic, exact, and what it claims to be."""

import cv2
import numpy as np
import pytest

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.formats import shapes_drawing


def draw(index, split="train", seed=0, image_size=(64, 96), max_objects=5, stuff=False):
    style = shapes_drawing.Style(seed, image_size, max_objects, stuff)
    return shapes_drawing.draw_shapes(style, split, index)


def test_an_image_depends_on_its_seed_split_and_index_alone():
    again = draw(3)
    np.testing.assert_array_equal(draw(3).image, again.image)
    for other in (draw(4), draw(3, seed=1), draw(3, split="val")):
        assert (other.image != again.image).mean() > 0.5


def test_boxes_are_the_exact_bounds_of_disjoint_visible_masks():
    for index in range(30):
        drawing = draw(index)
        assert drawing.image.shape == (64, 96, 3) and drawing.image.dtype == np.uint8
        assert drawing.masks.sum(axis=0).max(initial=0) <= 1
        for mask, (x, y, w, h) in zip(drawing.masks, drawing.boxes(), strict=True):
            inside = np.zeros_like(mask)
            inside[int(y) : int(y + h), int(x) : int(x + w)] = True
            assert mask.any() and not (mask & ~inside).any()
            for edge in (
                mask[int(y)],
                mask[int(y + h) - 1],
                mask[:, int(x)],
                mask[:, int(x + w) - 1],
            ):
                assert edge.any()


def test_a_circle_fills_its_box_as_a_circle_does_and_a_square_does_not():
    """Alone and whole in the image, the outline is what the class says."""
    fill = {name: [] for name in shapes_drawing.CLASS_NAMES}
    for index in range(400):
        drawing = draw(index, image_size=(128, 128), max_objects=1)
        for mask, box, kind in zip(
            drawing.masks, drawing.boxes(), drawing.classes, strict=True
        ):
            x, y, w, h = box
            if x > 0 and y > 0 and x + w < 128 and y + h < 128:
                fill[shapes_drawing.CLASS_NAMES[kind]].append(mask.sum() / (w * h))
    circles = np.array(fill["circle"])
    np.testing.assert_allclose(circles, np.pi / 4, atol=0.06)
    # A rotated square fills 1/2 to 1 of its box, a rotated triangle at most 1/2.
    assert 0.45 < min(fill["square"]) < 0.6 and max(fill["square"]) > 0.85
    assert 0.35 < min(fill["triangle"]) and max(fill["triangle"]) < 0.56
    assert min(len(f) for f in fill.values()) > 60  # all classes are about as common


def test_some_images_are_empty_some_shapes_hide_others_and_most_stay_visible():
    drawings = [draw(i, image_size=(96, 96), max_objects=6) for i in range(150)]
    counts = np.array([len(d.classes) for d in drawings])
    assert 0 < (counts == 0).mean() < 0.12 and counts.max() == 6
    boxes = [d.boxes() for d in drawings]
    overlapping = sum(
        (a[0] < b[0] + b[2])
        and (b[0] < a[0] + a[2])
        and (a[1] < b[1] + b[3])
        and (b[1] < a[1] + a[3])
        for rows in boxes
        for i, a in enumerate(rows)
        for b in rows[:i]
    )
    assert overlapping > 50
    assert min(d.masks.sum(axis=(1, 2)).min(initial=99) for d in drawings) > 30


def test_colour_does_not_give_the_class_away():
    means = {k: [] for k in range(3)}
    for index in range(200):
        drawing = draw(index)
        for mask, kind in zip(drawing.masks, drawing.classes, strict=True):
            means[int(kind)].append(drawing.image[mask].mean(axis=0))
    centres = np.array([np.mean(m, axis=0) for m in means.values()])
    assert np.ptp(centres, axis=0).max() < 30  # of 255


def test_the_encoded_image_is_the_drawing():
    drawing = draw(5)
    decoded = cv2.imdecode(
        np.frombuffer(shapes_drawing.encode_drawing(drawing), np.uint8),
        cv2.IMREAD_COLOR,
    )
    # JPEG halves the resolution of colour noise; what it averages to stays.
    ours = cv2.blur(drawing.image.astype(np.float32), (7, 7))
    theirs = cv2.blur(decoded[..., ::-1].astype(np.float32), (7, 7))
    assert np.abs(ours - theirs).mean() < 2.5


def test_a_longer_set_begins_with_the_shorter_one():
    style = shapes_drawing.Style(seed=0, image_size=(48, 48), max_objects=4)
    short = shapes_drawing.shapes_annotations(style, "val", 3)
    long = shapes_drawing.shapes_annotations(style, "val", 6)
    for index in range(3):
        np.testing.assert_array_equal(
            short.objects(index)["boxes"], long.objects(index)["boxes"]
        )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": -1}, "shapes.seed is -1"),
        ({"image_size": (64, 8)}, "shapes.image_size"),
        ({"max_objects": 0}, "shapes.max_objects is 0"),
    ],
)
def test_a_style_that_cannot_be_drawn_is_refused(changes, words):
    with pytest.raises(DataError, match=words):
        shapes_drawing.Style(
            **{"seed": 0, "image_size": (64, 64), "max_objects": 3} | changes
        )


def test_stuff_divides_the_ground_and_leaves_the_shapes_exact():
    seen = set()
    for index in range(40):
        drawing = draw(index, stuff=True)
        segments = drawing.segments()
        labels = segments.labels(things=3, merged=False)
        assert labels.min() >= 0  # nothing is void
        for mask, kind in zip(drawing.masks, drawing.classes, strict=True):
            assert (labels[mask] == kind).all()
        ground = ~drawing.masks.any(axis=0)
        np.testing.assert_array_equal(labels[ground], drawing.ground[ground] + 3)
        assert len(np.unique(segments.numbers)) <= len(segments.classes)
        seen |= set(np.unique(labels).tolist())
    assert seen == set(range(6))


def test_without_stuff_the_ground_is_one_class():
    assert not draw(0).ground.any()


def test_the_texture_of_stuff_and_not_its_colour_tells_the_class():
    colours = {k: [] for k in range(3)}
    for index in range(150):
        drawing = draw(index, stuff=True)
        bare = ~drawing.masks.any(axis=0)
        for kind in np.unique(drawing.ground[bare]).tolist():
            region = bare & (drawing.ground == kind)
            colours[kind].append(drawing.image[region].mean(axis=0))
    centres = np.array([np.mean(c, axis=0) for c in colours.values()])
    assert np.ptp(centres, axis=0).max() < 30
