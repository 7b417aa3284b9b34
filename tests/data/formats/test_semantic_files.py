"""COCO boxes and masks beside semantic label PNGs: segments of both."""

import pathlib

import cv2
import numpy as np
import pytest
from coco_files import annotation

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.annotations.segments import load_segments
from agvm_jax.data.dataset import open_dataset
from agvm_jax.data.pipeline import eval_batches
from agvm_jax.data.storage.panoptic_truth import PanopticTruth

# Of the first image: left half things, then grass (2), sky (1) and void.
VALUES = np.zeros((20, 30), np.uint8)
VALUES[:, 15:20], VALUES[:, 20:28], VALUES[:, 28:] = 2, 1, 255


def square(i, image_id, category_id, x, y, side, **more):
    corners = [x, y, x + side, y, x + side, y + side, x, y + side]
    return annotation(
        i, image_id, category_id, [x, y, side, side], segmentation=[corners], **more
    )


@pytest.fixture
def write(write_coco, two_images):
    """A function that writes the folder and returns the config to open it."""

    def one(annotations, values=VALUES):
        two_images["annotations"] = annotations
        config = write_coco(two_images)
        root = pathlib.Path(config.root)
        (root / "classes.txt").write_text("sky\ngrass\n")
        for split in ("train", "val"):
            (root / f"{split}_labels" / "ünï").mkdir(parents=True)
            for name, pixels in (
                ("a b", values),
                ("ünï/zwei", np.ones((16, 12), np.uint8)),
            ):
                png = cv2.imencode(".png", pixels)[1].tobytes()
                (root / f"{split}_labels" / f"{name}.png").write_bytes(png)
        config.semantic, config.semantic_stride = "all", 1
        return config

    return one


@pytest.fixture
def objects():
    """A zebra, a smaller ape over its corner, a crowd that reaches into the grass."""
    return [
        square(1, 7, 90, 1, 1, 8),
        square(2, 7, 4, 6, 6, 5),
        square(3, 7, 4, 12, 12, 6, iscrowd=1),
    ]


def test_stuff_comes_from_the_labels_and_things_from_the_masks(write, objects):
    dataset = open_dataset(write(objects))
    assert dataset.label_names("all") == ("ape", "zebra", "sky", "grass")
    assert (dataset.category_ids, dataset.stuff_ids) == ((4, 90), (91, 92))
    found = load_segments(dataset.train[0])
    expected = np.zeros((20, 30), int)  # where the labels say "thing" and no mask is
    expected[:, 20:28], expected[:, 15:20] = 1, 2
    expected[1:9, 1:9], expected[6:11, 6:11], expected[12:18, 12:15] = 3, 4, 5
    np.testing.assert_array_equal(found.numbers, expected)
    assert found.classes.tolist() == [2, 3, 1, 0, 0]
    assert found.crowd.tolist() == [False, False, False, False, True]
    assert load_segments(dataset.val[1]).classes.tolist() == [2]
    truth = PanopticTruth(dataset.val)
    assert [c["id"] for c in truth.content["categories"]] == [4, 90, 91, 92]


def test_labels_of_a_batch_follow(write, objects):
    config = write(objects)
    dataset = open_dataset(config)
    for semantic, (sky, grass, ape, zebra) in (
        ("all", (2, 3, 0, 1)),
        ("stuff", (1, 2, 0, 0)),
    ):
        config.semantic = semantic
        (batch,) = eval_batches(
            dataset.val, image_size=(20, 30), batch_size=2, data_config=config
        )
        labels = batch.semantic[0]
        assert (labels[:, 20:28] == sky).all() and (labels[:, 15:20] == grass).all()
        assert (labels[:, 28:] == -1).all() and labels[0, 0] == -1
        assert (labels[1:6, 1:9] == zebra).all() and (labels[6:11, 6:11] == ape).all()


def test_a_panoptic_file_goes_first_and_both_splits_need_the_same(write, objects):
    config = write(objects)
    (pathlib.Path(config.root) / "panoptic_train.json").write_text("{}")
    with pytest.raises(DataError, match="train split .* panoptic .* val split .* PNGs"):
        open_dataset(config)
    (pathlib.Path(config.root) / "panoptic_val.json").write_text("{}")
    with pytest.raises(DataError, match="panoptic_train cannot be read"):
        open_dataset(config)
    config.semantic = "none"
    assert open_dataset(config).stuff_names == ()


def test_a_changed_label_or_name_is_noticed(write, objects):
    config = write(objects)
    before = open_dataset(config).train.folder
    config.label_names = ("sky", "meadow")
    assert open_dataset(config).train.folder != before


def test_boxes_without_masks_cannot_be_told_apart(write, objects):
    del objects[1]["segmentation"]
    with pytest.raises(DataError, match="1 of the 3 boxes have no segmentation, which"):
        open_dataset(write(objects))


def test_an_object_that_lost_its_mask_has_no_pixel_and_does_no_harm(write, objects):
    objects[1]["segmentation"] = [[6, 6, 11, 11]]
    objects.append(annotation(4, 7, 4, [3, 3, 0, 4]))  # dropped: it has no area
    dataset = open_dataset(write(objects))
    found = load_segments(dataset.train[0])
    assert found.classes.tolist() == [2, 3, 1, 0, 0] and not (found.numbers == 4).any()
    truth = PanopticTruth(dataset.train).content["annotations"][0]
    assert [s["id"] for s in truth["segments_info"]] == [1, 2, 3, 5]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: path.unlink(), "1 of the 2 images have no label PNG .*'a b.png'"),
        (lambda path: path.write_bytes(b"no png"), "a b.png is not a PNG file"),
        (lambda path: path.write_bytes(b""), "a b.png is an empty file"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:-20]),
            "a b.png is truncated",
        ),
        (
            lambda path: path.write_bytes(cv2.imencode(".png", VALUES[1:])[1]),
            r"a b.png has height and width \(19, 30\), not \(20, 30\)",
        ),
        (
            lambda path: path.write_bytes(cv2.imencode(".png", VALUES + 3)[1]),
            r"a b.png holds the values \[3, 4, 5\], but there are 3 classes",
        ),
    ],
)
def test_a_label_file_that_does_not_fit_is_named(change, words, write, objects):
    config = write(objects)
    change(pathlib.Path(config.root) / "train_labels" / "a b.png")
    with pytest.raises(DataError, match=words):
        open_dataset(config)


def test_without_either_both_places_are_named(write_coco, two_images):
    config = write_coco(two_images)
    config.semantic = "stuff"
    with pytest.raises(
        DataError, match="panoptic_train.json nor a label folder .*train_labels"
    ):
        open_dataset(config)
