"""Masks, label maps and panoptic maps in an image's own pixels, and written down."""

import dataclasses
import json

import hotcoco
import numpy as np
import pytest
from PIL import Image

from agvm_jax.inference.card import ModelCard, read_card, write_card
from agvm_jax.inference.found import in_image
from agvm_jax.inference.images import frame_for, make_row, open_image
from agvm_jax.inference.writing import Writer, output_names
from agvm_jax.panoptic_png import read_panoptic_png
from agvm_jax.structures import Predictions

CARD = ModelCard(
    outputs=("boxes", "masks", "semantic"),
    class_names=("cat", "dog"),
    category_ids=(17, 18),
    label_names=("cat", "dog", "sky"),
    label_ids=(None, None, 187),
    image_size=(64, 128),
    short_side=0,
    long_side=0,
    turned_frame=False,
    exif=True,
    image_mean=(0.0, 0.0, 0.0),
    image_std=(1.0, 1.0, 1.0),
    config={"name": "test", "size": (1, 2)},
)
SIZE, WINDOW, FRAME = (100, 160), (64, 102), (64, 128)


@pytest.fixture
def found():
    """A dog in the left half of the image, sky everywhere else; and a faint cat."""
    semantic = np.full((1, *FRAME), 2, np.int32)
    predictions = Predictions(
        boxes=np.array([[[0, 0, 51, 64], [60, 10, 80, 30], [0, 0, 0, 0]]], np.float32),
        scores=np.array([[0.9, 0.2, 0.0]], np.float32),
        classes=np.array([[1, 0, -1]], np.int32),
        valid=np.array([[True, True, False]]),
        masks=np.ones((1, 3, 4, 4), np.float32),
        semantic=semantic,
    )
    return in_image(
        predictions,
        0,
        name="a.jpg",
        size=SIZE,
        window=WINDOW,
        frame=FRAME,
        card=CARD,
        score=0.1,
    )


def test_masks_labels_and_segments_are_those_of_the_image(found):
    np.testing.assert_allclose(found.boxes[0], [0, 0, 80, 100])
    assert found.names == ("dog", "cat") and str(found) == "a.jpg: 1 dog, 1 cat"
    assert found.masks.shape == (2, *SIZE)
    assert found.masks[0][13:87, 10:70].all() and not found.masks[0][:, 80:].any()
    assert (found.semantic == 2).all() and found.semantic.shape == SIZE
    # The cat's score is below the merge's threshold.
    dog, sky = found.segments
    assert (dog["category_id"], sky["category_id"]) == (18, 187)
    assert (found.panoptic[:, 100] == sky["id"]).all()
    assert (found.panoptic[20:80, 20] == dog["id"]).all()


def test_what_is_written_can_be_read(found, tmp_path):
    writer = Writer(tmp_path, CARD)
    results = writer.add(found, "deep/a", np.zeros((*SIZE, 3), np.uint8), image_id=9)
    writer.close()
    assert [one["category_id"] for one in results] == [18, 17]
    content = json.loads((tmp_path / "predictions.json").read_text())
    dog, cat = content["annotations"]
    assert dog["area"] == found.masks[0].sum() and cat["area"] == found.masks[1].sum()
    np.testing.assert_array_equal(
        hotcoco.mask.decode(dog["segmentation"]), found.masks[0]
    )
    assert content["labels"] == ["cat", "dog", "sky"]
    assert (np.asarray(Image.open(tmp_path / "labels/deep/a.png")) == 2).all()
    maps = json.loads((tmp_path / "panoptic.json").read_text())
    (entry,) = maps["annotations"]
    assert entry["file_name"] == "deep/a.png" and entry["image_id"] == 9
    assert {one["id"]: one["isthing"] for one in maps["categories"]} == {
        17: 1,
        18: 1,
        187: 0,
    }
    ids = read_panoptic_png(tmp_path / "panoptic" / entry["file_name"])
    np.testing.assert_array_equal(ids, found.panoptic)
    drawn = np.asarray(Image.open(tmp_path / "drawn/deep/a.jpg"))
    assert drawn.shape == (300, 480, 3) and drawn.std() > 10


def test_labels_without_boxes_are_drawn(found):
    card = dataclasses.replace(CARD, outputs=("semantic",))
    drawn = dataclasses.replace(found, card=card).draw(np.zeros((*SIZE, 3), np.uint8))
    assert drawn.any(axis=-1).mean() > 0.9


def test_no_two_images_are_written_to_one_file(tmp_path):
    paths = [tmp_path / p for p in ("x/a.jpg", "x/a.png", "x/y/a.jpg", "x/b.c.jpg")]
    assert output_names(paths) == ["a.jpg", "a.png", "y/a", "b.c"]
    assert output_names([tmp_path / "one.jpg"]) == ["one"]


def test_a_high_image_gets_a_turned_frame_where_training_turned_it():
    card = dataclasses.replace(CARD, turned_frame=True, short_side=32)
    assert frame_for((20, 10), card) == (128, 64)
    assert frame_for((10, 20), card) == (64, 128)
    assert frame_for((20, 10), CARD) == (64, 128)
    row = make_row(open_image(np.zeros((200, 100, 3), np.uint8), True), card)
    assert row.image.shape == (128, 64, 3) and row.window == (64, 32)


def test_a_card_comes_back_as_it_was_written(tmp_path):
    assert read_card(write_card(tmp_path, CARD)) == CARD
    path = tmp_path / "model.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(ValueError, match="has format 99"):
        read_card(path)
