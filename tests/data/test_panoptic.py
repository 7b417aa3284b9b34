"""COCO panoptic annotations: a JSON, PNGs of segment ids, and their agreement."""

import json
import pathlib

import cv2
import numpy as np
import pytest

from agvm_jax.data.dataset import open_dataset
from agvm_jax.data.errors import DataError
from agvm_jax.data.pipeline import eval_batches
from agvm_jax.data.segments import load_segments

# Segment ids of the two images: two things and stuff; stuff and void.
IDS = {
    7: np.array([[70000, 70000, 5], [70000, 300, 5]]).repeat(10, 0).repeat(10, 1),
    3: np.array([[0, 0, 16777215]]).repeat(16, 0).repeat(4, 1),
}


@pytest.fixture
def panoptic():
    """The panoptic dictionary for `two_images`, category ids interleaved."""
    return {
        "annotations": [
            {
                "image_id": 7,
                "file_name": "7.png",
                "segments_info": [
                    {"id": 70000, "category_id": 90, "iscrowd": 0},
                    {"id": 300, "category_id": 4, "iscrowd": 1},
                    {"id": 5, "category_id": 50, "iscrowd": 0},
                ],
            },
            {
                "image_id": 3,
                "file_name": "3.png",
                "segments_info": [{"id": 16777215, "category_id": 2}],
            },
        ],
        "categories": [
            {"id": 90, "name": "zebra", "isthing": 1},
            {"id": 4, "name": "ape", "isthing": 1},
            {"id": 50, "name": "sky", "isthing": 0},
            {"id": 2, "name": "grass", "isthing": 0},
        ],
    }


@pytest.fixture
def write_panoptic(write_coco, two_images):
    """A function that adds panoptic annotations to a COCO folder."""

    def write(content, ids=IDS):
        config = write_coco(two_images)
        root = pathlib.Path(config.root)
        for split in ("train", "val"):
            (root / f"panoptic_{split}.json").write_text(json.dumps(content))
            folder = root / f"panoptic_{split}"
            folder.mkdir(exist_ok=True)
            for image_id, values in ids.items():
                rgb = np.stack([values % 256, values // 256 % 256, values // 65536], -1)
                png = cv2.imencode(".png", rgb[..., ::-1].astype(np.uint8))[1]
                (folder / f"{image_id}.png").write_bytes(png.tobytes())
        config.semantic, config.semantic_stride = "all", 1
        return config

    return write


def test_segments_get_the_classes_of_things_first_then_stuff(write_panoptic, panoptic):
    dataset = open_dataset(write_panoptic(panoptic))
    assert dataset.label_names("all") == ("ape", "zebra", "grass", "sky")
    assert dataset.label_names("stuff") == ("things", "grass", "sky")
    assert (dataset.category_ids, dataset.stuff_ids) == ((4, 90), (2, 50))
    segments = load_segments(dataset.train[0])
    expected = np.array([[1, 1, 3], [1, 2, 3]]).repeat(10, 0).repeat(10, 1)
    np.testing.assert_array_equal(segments.numbers, expected)
    assert segments.classes.tolist() == [1, 0, 3]
    assert segments.crowd.tolist() == [False, True, False]


def test_labels_of_a_batch_are_the_classes_with_void_ignored(write_panoptic, panoptic):
    config = write_panoptic(panoptic)
    dataset = open_dataset(config)
    for semantic, stuff in (("all", 2), ("stuff", 1)):
        config.semantic = semantic
        (batch,) = eval_batches(
            dataset.val, image_size=(20, 30), batch_size=2, data_config=config
        )
        second = batch.semantic[1]  # 16 x 12 resized to 20 x 15
        assert (second[:, :10] == -1).all() and (second[:, 15:] == -1).all()
        assert (second[:, 10:15] == stuff).all()


def test_the_panoptic_file_is_not_needed_without_semantic_labels(
    write_panoptic, panoptic
):
    config = write_panoptic(panoptic)
    (pathlib.Path(config.root) / "panoptic_val.json").unlink()
    with pytest.raises(DataError, match="no panoptic annotation file .*panoptic_val"):
        open_dataset(config)
    config.semantic = "none"
    assert open_dataset(config).stuff_names == ()


# Each row: where in the dictionary, what to put there, what the message must say.
BROKEN = {
    "no annotations": ("annotations", None, "'annotations' is a null"),
    "id not in json": ("annotations.0.segments_info.2.id", 6, r"ids \[5\], which"),
    "id of void": ("annotations.0.segments_info.2.id", 0, "has the id 0"),
    "id too large": ("annotations.0.segments_info.2.id", 2**24, "16777216"),
    "id twice": ("annotations.0.segments_info.2.id", 300, "has the id 300"),
    "absent category": ("annotations.0.segments_info.2.category_id", 51, "category 51"),
    "no entry": ("annotations.0.image_id", 8, r"1 images have no entry.*\[7\]"),
    "no png": ("annotations.0.file_name", "no.png", "1 panoptic PNGs .*'no.png'"),
    "outside": ("annotations.0.file_name", "../7.png", "leads out"),
    "isthing": ("categories.0.isthing", 2, "isthing of category 90 is 2"),
    "other thing": ("categories.0.name", "horse", "thing 'horse' here but 'zebra'"),
    "thing as stuff": ("categories.0.isthing", 0, "no stuff categories of its own"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_annotation_is_one_sentence(name, write_panoptic, panoptic):
    where, value, words = BROKEN[name]
    *parents, last = [int(k) if k.isdigit() else k for k in where.split(".")]
    target = panoptic
    for key in parents:
        target = target[key]
    target[last] = value
    with pytest.raises(DataError, match=words):
        open_dataset(write_panoptic(panoptic))


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"no png", "cannot be read"), (None, r"width \(20, 29\), its image \(20, 30\)")],
)
def test_a_png_that_does_not_fit_is_named(content, words, write_panoptic, panoptic):
    config = write_panoptic(panoptic)
    if content is None:
        content = cv2.imencode(".png", np.zeros((20, 29, 3), np.uint8))[1].tobytes()
    path = pathlib.Path(config.root) / "panoptic_train" / "7.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"7.png .*{words}"):
        open_dataset(config)
