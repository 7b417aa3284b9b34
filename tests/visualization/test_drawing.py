"""Drawn boxes and contact sheets: what is where, in which colour, at which size."""

import numpy as np
import pytest
from PIL import Image

from agvm_jax.visualization.canvas import class_color
from agvm_jax.visualization.drawing import (
    MOST_LABELS,
    draw_detections,
    draw_labels,
    draw_objects,
    save_contact_sheet,
)

GREY = 90


def grey(height, width):
    return np.full((height, width, 3), GREY, np.uint8)


def draw_one(image, box, label=0, score=0.5, **options):
    return draw_detections(
        image, np.array([box]), np.array([label]), np.array([score]), "abc", **options
    )


def test_a_box_is_outlined_in_its_class_colour_and_its_inside_is_left_alone():
    image = grey(600, 800)
    drawn = draw_one(image, [100, 200, 300, 400], label=1)
    assert drawn.shape == image.shape
    for x, y in ((100, 300), (300, 300), (200, 400), (300, 200)):
        assert tuple(drawn[y, x]) == class_color(1)
    np.testing.assert_array_equal(drawn[240:390, 110:290], GREY)
    np.testing.assert_array_equal(image, GREY)  # the input is not drawn on


def test_small_images_are_enlarged_with_their_boxes_and_large_ones_are_kept():
    drawn = draw_one(grey(60, 120), [30, 15, 90, 45])
    assert drawn.shape == (240, 480, 3)
    for x, y in ((120, 120), (360, 120), (240, 180)):
        assert tuple(drawn[y, x]) == class_color(0)
    assert draw_one(grey(500, 700), [0, 0, 9, 9]).shape == (500, 700, 3)
    assert draw_one(grey(4, 4), [0, 0, 2, 2], min_side=0).shape == (4, 4, 3)


def test_the_label_stands_above_the_box_or_inside_where_there_is_no_room():
    def label_rows(drawn):
        filled = (drawn == class_color(0)).all(axis=-1).sum(axis=1)
        return np.flatnonzero(filled > 25)

    assert label_rows(draw_one(grey(480, 480), [100, 200, 110, 210])).max() < 205
    at_top = label_rows(draw_one(grey(480, 480), [100, 0, 110, 200]))
    assert at_top.min() >= 0
    assert at_top.max() < 40


def test_labels_of_boxes_in_one_place_do_not_hide_each_other():
    count = 3
    drawn = draw_detections(
        grey(480, 480),
        np.full((count, 4), [200, 200, 300, 300]),
        np.arange(count),
        np.array([0.9, 0.8, 0.7]),
        ["one", "two", "three"],
    )
    alone = draw_one(grey(480, 480), [200, 200, 300, 300])
    area = (alone == class_color(0)).all(axis=-1)[170:200].sum()
    for k in range(count):
        assert (drawn == class_color(k)).all(axis=-1).sum() > 0.8 * area


def test_a_crowd_of_boxes_is_drawn_without_the_labels_that_would_hide_it():
    def filled(count):
        boxes = np.tile([200.0, 200, 280, 280], (count, 1))
        scores = np.full(count, 0.5)
        drawn = draw_detections(
            grey(480, 480), boxes, np.zeros(count, int), scores, "a"
        )
        return (drawn[:190] == class_color(0)).all(axis=-1).sum()

    assert filled(MOST_LABELS) > 0 == filled(MOST_LABELS + 1)


def test_masks_tint_their_pixels_and_no_others():
    masks = np.zeros((1, 2, 2))
    masks[0, :, 0] = 1
    image = grey(480, 480)
    drawn = draw_one(image, [100, 200, 300, 400], masks=masks)
    expected = np.round(0.55 * GREY + 0.45 * np.array(class_color(0)))
    np.testing.assert_array_equal(
        drawn[260:340, 130:190], np.tile(expected, (80, 60, 1))
    )
    np.testing.assert_array_equal(drawn[210:390, 210:290], GREY)
    np.testing.assert_array_equal(image, GREY)


def test_whole_masks_tint_each_their_own_detection():
    regions = [np.zeros((48, 48), bool), np.zeros((48, 48), np.uint8)]
    regions[0][:24] = True
    regions[1][30:, :10] = 1
    drawn = draw_detections(
        grey(48, 48),
        np.array([[20, 20, 28, 28]] * 2),
        np.array([0, 1]),
        np.array([0.9, 0.8]),
        "ab",
        regions=regions,
    )
    for k, (y, x) in enumerate(((100, 100), (400, 50))):
        mixed = np.round(0.55 * GREY + 0.45 * np.array(class_color(k)))
        np.testing.assert_array_equal(drawn[y, x], mixed)
    assert (drawn[400, 300] == GREY).all()


def test_the_best_detection_lies_on_top_and_its_label_stands_where_it_is_best():
    boxes = np.array([[100.0, 200, 300, 400]] * 2)
    drawn = draw_detections(
        grey(480, 480),
        boxes,
        np.array([0, 1]),
        np.array([0.6, 0.7]),
        ["x", "y"],
        masks=np.ones((2, 2, 2)),
    )
    assert tuple(drawn[350, 100]) == class_color(1)  # the outline
    assert tuple(drawn[190, 102]) == class_color(1)  # the label's corner above the box
    tints = [np.array(class_color(k)) for k in (0, 1)]
    below = np.round(0.55 * GREY + 0.45 * tints[0])
    top = np.round(0.55 * below + 0.45 * tints[1])
    np.testing.assert_array_equal(drawn[300, 200], top)


def test_labels_tint_their_area_at_any_resolution_and_carry_their_name():
    image = grey(480, 960)
    labels = np.array([[0, -1], [0, 2]])
    drawn = draw_labels(image, labels, ["sky", "none of it", "tree"], strength=1.0)
    assert (drawn[5:475, 5] == class_color(0)).all()
    assert (drawn[245:475, 955] == class_color(2)).all()
    np.testing.assert_array_equal(drawn[:240, 480:], GREY)
    assert not (drawn == class_color(1)).all(axis=-1).any()
    letters = (drawn == 0).all(axis=-1)
    rows, columns = np.nonzero(letters[:, :480])
    assert abs(columns.mean() - 240) < 8  # in the middle of the left half
    assert letters[240:, 480:].any()
    assert draw_labels(grey(10, 20), labels, "abc").shape == (240, 480, 3)


def test_detections_below_the_threshold_are_not_drawn():
    image = grey(480, 480)
    drawn = draw_one(image, [10, 10, 99, 99], score=0.29, score_threshold=0.3)
    np.testing.assert_array_equal(drawn, image)
    drawn = draw_one(image, [10, 10, 99, 99], score=0.3, score_threshold=0.3)
    assert (drawn != image).any()


def test_ground_truth_is_dashed_white():
    none = np.zeros((0, 4)), np.zeros(0, int), np.zeros(0)
    truth = np.array([[50, 60, 250, 160]])
    drawn = draw_detections(grey(480, 480), *none, "abc", ground_truth=truth)
    edge = drawn[60, 50:251, 0]
    assert 0.5 < (edge == 255).mean() < 0.9
    assert (drawn[61:159, 51:249] == GREY).all()


def test_crowd_regions_are_dotted_and_no_truth():
    none = np.zeros((0, 4)), np.zeros(0, int), np.zeros(0)
    crowd = np.array([[50, 60, 250, 160]])
    drawn = draw_detections(grey(480, 480), *none, "abc", crowds=crowd)
    edge = drawn[60, 50:251, 0]
    assert 0.15 < (edge == 255).mean() < 0.35
    assert (edge == 40).mean() > 0.6  # visible on white ground too
    assert (drawn[61:159, 51:249] == GREY).all()


def test_of_objects_a_crowd_is_dotted_tinted_and_without_a_name():
    drawn = draw_objects(
        grey(480, 480),
        np.array([[50.0, 100, 150, 200], [250, 100, 350, 200]]),
        np.array([0, 0]),
        ["one", "many"],
        crowd=np.array([False, True]),
        masks=np.ones((2, 7, 7), np.uint8),
    )
    assert (drawn[100, 60:140] == class_color(0)).all()
    assert (drawn[70:99, 50:240] == class_color(0)).all(axis=-1).any()  # its name
    assert (drawn[70:99, 245:] == GREY).all()
    assert 0.1 < (drawn[100, 250:350] == 255).all(axis=-1).mean() < 0.4
    np.testing.assert_array_equal(drawn[150, 300], drawn[150, 100])  # the tint


def test_boxes_outside_the_image_and_boxes_turned_over_do_no_harm():
    for box in ([-50, -50, 9999, 9999], [700, 700, 800, 800], [90, 90, 10, 10]):
        assert draw_one(grey(480, 480), box).shape == (480, 480, 3)


def test_names_in_any_script_are_drawn():
    drawn = draw_detections(
        grey(480, 480), np.array([[9, 99, 60, 200]]), [0], [0.5], ["größe 猫"]
    )
    assert (drawn != GREY).any()


def test_neighbouring_classes_have_colours_that_differ():
    colors = np.array([class_color(k) for k in range(80)], float)
    step = np.abs(np.diff(colors, axis=0)).sum(axis=1)
    assert step.min() > 60
    assert len({tuple(c) for c in colors.tolist()}) == 80


def test_wrong_images_and_nameless_classes_are_refused():
    with pytest.raises(ValueError, match=r"\(4, 4\) uint8"):
        draw_one(np.zeros((4, 4), np.uint8), [0, 0, 1, 1])
    with pytest.raises(ValueError, match="float64"):
        draw_one(np.zeros((4, 4, 3)), [0, 0, 1, 1])
    with pytest.raises(ValueError, match=r"classes 3\.\.3, but 3 names"):
        draw_one(grey(4, 4), [0, 0, 1, 1], label=3)


def test_a_contact_sheet_holds_every_image_in_rows_under_its_title(tmp_path):
    path = tmp_path / "größe.png"
    images = [np.full((30 + k, 40, 3), 40 * k, np.uint8) for k in range(5)]
    save_contact_sheet(images, path, ["a title that is too long"] * 5, cell=80)
    sheet = np.asarray(Image.open(path))
    assert sheet.shape[1] == 3 * (80 + 12) + 12  # three columns
    for k in range(5):
        row, column = divmod(k, 3)
        y = 12 + 30 + row * ((sheet.shape[0] - 12) // 2) + 20
        assert sheet[y, 12 + column * 92 + 40, 0] == 40 * k
    title = sheet[12:38, 12:92]
    assert (title < 128).any()
    assert (sheet[12:38, 93:103] == 255).all()  # cut before the next column


def test_a_contact_sheet_needs_images_and_a_title_for_each(tmp_path):
    with pytest.raises(ValueError, match="at least one image"):
        save_contact_sheet([], tmp_path / "a.png")
    with pytest.raises(ValueError, match="1 titles for 2 images"):
        save_contact_sheet([grey(4, 4)] * 2, tmp_path / "a.png", ["x"])
