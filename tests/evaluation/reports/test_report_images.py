"""Images of a report: which images, how many, and what is drawn of a batch."""

import numpy as np
from PIL import Image

from agvm_jax.evaluation.reports.images import (
    best_and_worst,
    draw_batch,
    write_images,
)
from agvm_jax.structures import Batch, Predictions
from agvm_jax.visualization.canvas import class_color

GREY = 90


def examples(asked):
    """Batches of two images and a row that only fills up, of different greys."""
    for first in (10, 20, 30):
        asked.append(first)
        shade = np.array([first, 0, first + 1])[:, None, None, None]
        yield (
            Batch(
                np.broadcast_to(shade, (3, 32, 48, 3)).astype(np.uint8),
                np.full((3, 2), [32, 48]),
                np.array([first, -1, first + 1]),
                np.zeros((3, 1, 4)),
                np.zeros((3, 1), int),
                np.zeros((3, 1), bool),
                np.zeros((3, 1), bool),
            ),
            Predictions(
                np.zeros((3, 1, 4)),
                np.zeros((3, 1)),
                np.full((3, 1), -1),
                np.zeros((3, 1), bool),
            ),
        )


def test_as_many_images_are_drawn_as_asked_for_and_no_more_batches_predicted(tmp_path):
    asked = []
    paths = write_images(tmp_path, 7, examples(asked), ("a",), 3)
    assert asked == [10, 20]
    names = ["image_10.png", "image_11.png", "image_20.png", "detections.png"]
    assert paths == [tmp_path / "eval" / "7" / name for name in names]
    for path, shade in zip(paths[:3], (10, 11, 20), strict=True):
        with Image.open(path) as image:
            assert image.getpixel((200, 150)) == (shade,) * 3
    with Image.open(paths[3]) as sheet:
        assert sheet.width > 2 * 480
    assert write_images(tmp_path, 8, examples(asked), ("a",), 0) == []
    assert asked == [10, 20] and not (tmp_path / "eval" / "8").exists()
    assert write_images(tmp_path, 9, iter(()), ("a",), 3) == []


def test_an_image_is_not_shown_as_both_best_and_worst():
    assert best_and_worst([], 3) == {"best": [], "worst": []}
    assert best_and_worst([5], 3) == {"best": [5], "worst": []}
    assert best_and_worst([5, 9, 7, 1, 3], 9) == {"best": [5, 9, 7], "worst": [3, 1]}
    assert best_and_worst([5, 9, 7, 1, 3], 2) == {"best": [5, 9], "worst": [3, 1]}


def test_a_batch_is_drawn_without_padding_and_with_its_crowds_as_crowds():
    image = np.zeros((2, 500, 600, 3), np.uint8)
    image[0, :480, :400] = GREY
    truth = np.array([[50, 50, 150, 150], [200, 200, 300, 300], [9, 9, 20, 20]])
    batch = Batch(
        image,
        np.array([[480, 400], [500, 600]]),
        np.array([7, -1]),
        np.stack([truth] * 2),
        np.zeros((2, 3), int),
        np.array([[True, True, False]] * 2),
        np.array([[False, True, False]] * 2),
    )
    predictions = Predictions(
        np.full((2, 2, 4), [60.0, 300, 160, 400]),
        np.array([[0.9, 0.2]] * 2),
        np.array([[2, 1]] * 2),
        np.ones((2, 2), bool),
    )
    (drawn,) = draw_batch(batch, predictions, "abc")
    assert drawn.shape == (480, 400, 3)
    assert (drawn[50, 50:150, 0] == 255).mean() > 0.5
    assert 0.1 < (drawn[200, 200:300, 0] == 255).mean() < 0.4  # the crowd
    assert (drawn[9, 9:20] == GREY).all()  # not valid
    assert tuple(drawn[350, 60]) == class_color(2)
    assert not (drawn == class_color(1)).all(axis=-1).any()  # below the threshold


def test_labels_lie_below_boxes_and_either_may_be_absent():
    image = np.zeros((1, 64, 64, 3), np.uint8)
    image[0, :32, :48] = GREY
    nothing = np.zeros((1, 1), bool)
    batch = Batch(
        image, np.array([[32, 48]]), np.array([7]), np.zeros((1, 1, 4)),
        np.zeros((1, 1), int), nothing, nothing,
    )  # fmt: skip
    semantic = np.full((1, 16, 16), 1)  # a label stands for 4 x 4 pixels
    semantic[0, :, :6] = -1  # the left half of the image
    labels = Predictions(None, None, None, None, semantic=semantic)
    (drawn,) = draw_batch(batch, labels, "abc", ("sky", "road"))
    assert drawn.shape == (320, 480, 3)
    assert (drawn[:, :239] == GREY).all()
    road = np.round(0.5 * GREY + 0.5 * np.array(class_color(1)))
    np.testing.assert_array_equal(drawn[300, 460], road)
    box = Predictions(
        np.array([[[4, 8, 20, 24]]]), np.ones((1, 1)), np.full((1, 1), 2), ~nothing,
        semantic=semantic,
    )  # fmt: skip
    (both,) = draw_batch(batch, box, "abc", ("sky", "road"))
    assert both.shape == drawn.shape
    assert tuple(both[150, 40]) == class_color(2)  # 4 and 8 pixels, ten times as large
    np.testing.assert_array_equal(both[300, 460], road)
