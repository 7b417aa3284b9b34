"""LVIS v1: names from addresses, and what its evaluation needs in the ground truth."""

import json
import pathlib

import pytest
from coco_files import annotation, noise_png

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.annotations.ground_truth import coco_dictionary
from agvm_jax.data.dataset import open_dataset
from agvm_jax.data.formats.coco_json import read_coco
from benchmarks.coco_writer import write_split


def content(split, ids):
    """A file as LVIS v1 has it, with some of its keys."""
    square = [[1, 1, 6, 1, 6, 6, 1, 6]]
    return {
        "info": {},
        "licenses": [],
        "images": [
            {
                "id": i,
                "coco_url": f"http://images.cocodataset.org/{split}2017/{i:012d}.jpg",
                "flickr_url": "http://farm1.example.org/1_2_z.jpg",
                "height": 20,
                "width": 30,
                "neg_category_ids": [3, 5],
                "not_exhaustive_category_ids": [5] if i % 2 else [],
            }
            for i in ids
        ],
        "annotations": [
            annotation(i, i, 3, [1, 1, 5, 5], area=25, segmentation=square) for i in ids
        ],
        "categories": [
            {"id": 3, "name": "ape", "frequency": "r", "synset": "ape.n.01"},
            {"id": 5, "name": "zebra", "frequency": "f", "synset": "zebra.n.01"},
        ],
    }


@pytest.fixture
def lvis(tmp_path, data_config):
    """Two training images; one of validation, which lies in the folder of training."""
    root = tmp_path / "coco"
    pictures = {f"{i:012d}.jpg": noise_png(20, 30, seed=i) for i in (1, 2, 3)}
    for split, ids, encoded in (("train", (1, 2), pictures), ("val", (3,), {})):
        file = root / "annotations" / f"lvis_v1_{split}.json"
        write_split(file, root / f"{split}2017", content("train", ids), encoded)
    data_config.name, data_config.root = "lvis", str(root)
    return data_config


def test_images_lie_where_their_address_says(lvis):
    lvis.mask_size = 8
    dataset = open_dataset(lvis)
    assert dataset.class_names == ("ape", "zebra") and dataset.category_ids == (3, 5)
    assert dataset.val[0]["file_name"] == "train2017/000000000003.jpg"
    assert dataset.val[0]["image"] == noise_png(20, 30, seed=3)
    assert (dataset.train.report.boxes, dataset.train.report.masks) == (2, 2)


def test_the_ground_truth_says_of_images_and_categories_what_the_file_says(lvis):
    source = open_dataset(lvis).train
    truth, given = source.ground_truth(), content("train", (1, 2))
    for ours, theirs in zip(truth["images"], given["images"], strict=True):
        for key in ("id", "neg_category_ids", "not_exhaustive_category_ids"):
            assert ours[key] == theirs[key]
    assert [c["frequency"] for c in truth["categories"]] == ["r", "f"]


def test_a_part_of_a_file_keeps_its_images_own_lists(tmp_path):
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps(content("val", (1, 2, 3))))
    part = coco_dictionary(read_coco(path).select([2, 1]))
    assert [image["id"] for image in part["images"]] == [3, 2]
    lists = [image["not_exhaustive_category_ids"] for image in part["images"]]
    assert lists == [[5], []]
    assert [a["image_id"] for a in part["annotations"]] == [2, 3]


def test_an_unrelated_file_beside_the_images_changes_nothing(lvis):
    before = open_dataset(lvis).train.folder
    (pathlib.Path(lvis.root) / "notes.txt").write_text("x")
    assert open_dataset(lvis).train.folder == before


def test_other_files_have_no_such_keys(two_images, tmp_path):
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(two_images))
    assert set(coco_dictionary(read_coco(path))["images"][0]) == {
        *("id", "file_name", "height", "width")
    }


def test_the_files_may_lie_beside_the_images_and_are_detected(lvis):
    root = pathlib.Path(lvis.root)
    for split in ("train", "val"):
        (root / "annotations" / f"lvis_v1_{split}.json").rename(
            root / f"lvis_v1_{split}.json"
        )
    lvis.name = "auto"
    assert open_dataset(lvis).name == "lvis"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("folder", "no image folder .*val2017: set --config.data.root"),
        ("file", "no annotation file .*lvis_v1_val.json: set --config.data.root"),
        ("address", "image 3 is called '../x.jpg', which leads out"),
        ("list", "neg_category_ids of image 3 is 'ape', not a whole number"),
    ],
)
def test_what_does_not_fit_is_one_sentence(change, words, lvis):
    root = pathlib.Path(lvis.root)
    path = root / "annotations" / "lvis_v1_val.json"
    if change == "folder":
        (root / "val2017").rmdir()
    elif change == "file":
        path.unlink()
    else:
        given = content("train", (3,))
        image = given["images"][0]
        image["coco_url"] = "http://x/../x.jpg" if change == "address" else "a/b.jpg"
        image["neg_category_ids"] = ["ape"] if change == "list" else []
        path.write_text(json.dumps(given))
    with pytest.raises(DataError, match=words):
        open_dataset(lvis)


def test_semantic_labels_are_not_there(lvis):
    lvis.semantic = "all"
    with pytest.raises(DataError, match="this set has no semantic labels"):
        open_dataset(lvis)
