"""open_dataset: what a config opens, and the sentence for what it cannot."""

import copy
import pathlib

import cv2
import numpy as np
import pytest
from coco_files import CMYK_JPEG, annotation, noise_png, with_orientation

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.dataset import open_dataset
from agvm_jax.data.pipeline import eval_batches


def test_shapes_open_without_anything_on_disk(data_config):
    dataset = open_dataset(data_config)
    assert dataset.class_names == ("circle", "square", "triangle")
    assert dataset.category_ids == (1, 2, 3)
    assert (len(dataset.train), len(dataset.val)) == (10, 5)
    assert dataset.train[0]["image"] != dataset.val[0]["image"]
    assert dataset.report[0] == "shapes: 3 classes"
    assert any("val: 5 images" in line for line in dataset.report)


def test_ground_truth_and_records_tell_the_same_boxes(data_config):
    source = open_dataset(data_config).val
    truth = source.ground_truth()
    assert [entry["id"] for entry in truth["images"]] == [1, 2, 3, 4, 5]
    for index in range(5):
        example = source[index]
        boxes = [a["bbox"] for a in truth["annotations"] if a["image_id"] == index + 1]
        boxes = np.array(boxes).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        np.testing.assert_array_equal(example["boxes"], boxes)


def test_a_coco_folder_opens_with_odd_names_nested_folders_and_id_holes(
    write_coco, two_images
):
    dataset = open_dataset(write_coco(two_images))
    assert dataset.class_names == ("ape", "zebra") and dataset.category_ids == (4, 90)
    example = dataset.train[1]
    assert (example["file_name"], example["image_id"]) == ("ünï/zwei.png", 3)
    assert example["image"] == noise_png(16, 12)
    assert dataset.train[0]["crowd"].tolist() == [False, True]
    assert "1 crowd regions" in "\n".join(dataset.report)


def test_a_set_that_moves_stays_prepared_and_one_that_changes_does_not(
    write_coco, two_images
):
    config = write_coco(two_images)
    first = open_dataset(config).train.folder
    root = pathlib.Path(config.root)
    config.root = str(root.rename(root.with_name("moved")))
    assert open_dataset(config).train.folder == first
    two_images["annotations"][0]["bbox"] = [1, 2, 10, 6]
    config = write_coco(two_images)
    changed = open_dataset(config).train
    assert changed.folder != first and changed[0]["boxes"][0, 3] == 8
    (pathlib.Path(config.root) / "train" / "a b.png").write_bytes(noise_png(19, 30))
    assert open_dataset(config).train.folder not in (first, changed.folder)


def test_val_keeps_its_records_when_only_train_changes(write_coco, two_images):
    before = open_dataset(write_coco(two_images, two_images)).val.folder
    train = copy.deepcopy(two_images)
    train["annotations"].pop()
    assert open_dataset(write_coco(train, two_images)).val.folder == before


def test_images_without_boxes_are_kept_as_negatives(write_coco, two_images):
    two_images["annotations"] = []
    dataset = open_dataset(write_coco(two_images))
    assert len(dataset.train) == 2
    assert dataset.train[0]["boxes"].shape == (0, 4)
    assert "2 images, 0 boxes" in dataset.report[1]
    assert dataset.val.ground_truth()["annotations"] == []


def test_sizes_that_the_file_leaves_out_come_from_the_pictures(write_coco, two_images):
    for entry in two_images["images"]:
        del entry["height"], entry["width"]
    dataset = open_dataset(write_coco(two_images))  # pictures are 20 x 30 then
    assert (dataset.train[0]["height"], dataset.train[0]["width"]) == (20, 30)
    assert len(dataset.train[0]["boxes"]) == 2


def test_an_undecodable_picture_of_unknown_size_is_reported(write_coco, two_images):
    del two_images["images"][0]["height"]
    config = write_coco(two_images)
    (pathlib.Path(config.root) / "train" / "a b.png").write_bytes(b"no image")
    dataset = open_dataset(config)
    assert dataset.train.report.unreadable_images == 1
    assert len(dataset.train[0]["boxes"]) == 0
    batches = eval_batches(
        dataset.train, image_size=16, batch_size=2, data_config=config
    )
    assert [b.image_id.tolist() for b in batches] == [[-1, 3]]
    assert batches.counters["unreadable_images"] == 1
    truth = dataset.train.ground_truth()["annotations"]
    assert [a["image_id"] for a in truth] == [3]


def test_absent_pictures_are_listed_up_to_ten(write_coco, two_images):
    two_images["images"] += [
        {"id": 100 + i, "file_name": f"gone{i}.png", "height": 9, "width": 9}
        for i in range(12)
    ]
    config = write_coco(two_images, skip=[f"gone{i}.png" for i in range(12)])
    with pytest.raises(DataError) as caught:
        open_dataset(config)
    message = str(caught.value)
    assert "12 of the 14 images" in message and "'gone9.png', ..." in message
    assert "gone10" not in message


def test_a_name_that_leads_out_of_the_folder_is_never_opened(write_coco, two_images):
    config = write_coco(two_images)
    (pathlib.Path(config.root) / "outside.png").write_bytes(noise_png(20, 30))
    for name in (
        "../outside.png",
        "a/../../outside.png",
        f"{config.root}/outside.png",
        "..\\outside.png",
        "C:\\outside.png",
        "\\\\host\\share\\outside.png",
    ):
        two_images["images"][0]["file_name"] = name
        config = write_coco(two_images, skip=[name])
        with pytest.raises(DataError, match="leads out of the image folder"):
            open_dataset(config)


def test_a_val_split_with_other_categories_is_refused(write_coco, two_images):
    val = copy.deepcopy(two_images)
    val["categories"][0]["name"] = "horse"
    with pytest.raises(DataError, match="'horse' here but 'zebra'"):
        open_dataset(write_coco(two_images, val))


def test_val_may_lack_categories_and_keeps_the_training_classes(write_coco, two_images):
    val = copy.deepcopy(two_images)
    val["categories"] = val["categories"][:1]
    val["annotations"] = [annotation(1, 7, 90, [1, 1, 5, 5])]
    dataset = open_dataset(write_coco(two_images, val))
    assert dataset.val[0]["classes"].tolist() == [1]
    assert dataset.val.card.class_names == dataset.class_names


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"name": "imagenet"},
            "'imagenet'; there are ade20k, coco, coco_folder, label_folder, lvis, sh",
        ),
        ({"name": "coco"}, "root is empty: set --config.data.root=PATH to a folder w"),
        ({"name": "coco_folder"}, "root is empty: .*data.root=PATH"),
        (
            {"name": "coco", "root": "/nowhere"},
            "no data folder /nowhere: set --config.data.root",
        ),
    ],
)
def test_a_config_that_names_nothing_says_what_to_put_where(
    changes, words, data_config
):
    data_config.update(changes)
    with pytest.raises(DataError, match=words):
        open_dataset(data_config)


def test_more_objects_than_a_batch_keeps_are_announced(write_coco, two_images):
    config = write_coco(two_images)
    assert len(open_dataset(config).report) == 5
    config.max_boxes = 1
    assert open_dataset(config).report[-1] == (
        "  training keeps 1 objects an image, of more a random choice: data.max_boxes=2"
        " keeps all"
    )


def test_missing_files_of_a_folder_are_named(write_coco, two_images):
    config = write_coco(two_images)
    config.val_annotations = "other.json"
    with pytest.raises(DataError, match="no annotation file .*other.json"):
        open_dataset(config)
    config.val_annotations, config.train_images = "instances_val.json", "pictures"
    with pytest.raises(DataError, match="no image folder .*pictures"):
        open_dataset(config)


def test_the_coco_layout_is_that_of_its_archives(write_coco, two_images):
    config = write_coco(two_images)
    root = pathlib.Path(config.root)
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        (root / split).rename(root / f"{split}2017")
        (root / f"instances_{split}.json").rename(
            root / "annotations" / f"instances_{split}2017.json"
        )
    config.name = "coco"
    assert len(open_dataset(config).train) == 2


def test_images_of_every_kind_come_through_and_the_truncated_one_is_counted(
    write_coco,
):
    """Grey, CMYK, 16 bits, turned by EXIF either way, truncated; in one folder."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 3), np.uint8)
    pixels = cv2.resize(pixels, (16, 8))
    jpeg = cv2.imencode(".jpg", pixels)[1].tobytes()
    files = {
        "grey.jpg": cv2.imencode(".jpg", pixels[..., 0])[1].tobytes(),
        "sixteen bits.png": cv2.imencode(".png", pixels.astype(np.uint16) * 257)[1],
        "grey sixteen.png": cv2.imencode(".png", pixels[..., 0].astype(np.uint16))[1],
        "cmyk.jpg": CMYK_JPEG,
        "turned, annotated as stored.jpg": with_orientation(jpeg, 6),
        "turned, annotated as shown.jpg": with_orientation(jpeg, 6),
        "truncated.jpg": jpeg[:-30],
    }
    content = {
        "images": [
            {"id": i, "file_name": name, "height": 8, "width": 16}
            for i, name in enumerate(files)
        ],
        "annotations": [annotation(i + 1, i, 1, [1, 1, 5, 5]) for i in range(7)],
        "categories": [{"id": 1, "name": "one"}],
    }
    content["images"][5].update(height=16, width=8)
    config = write_coco(content)
    for split in ("train", "val"):
        for name, data in files.items():
            (pathlib.Path(config.root) / split / name).write_bytes(bytes(data))
    batches = eval_batches(
        open_dataset(config).val, image_size=16, batch_size=7, data_config=config
    )
    (batch,) = batches
    assert batch.image_id.tolist() == [0, 1, 2, 3, 4, 5, -1]
    assert batch.image_size[:6].tolist() == [[8, 16]] * 5 + [[16, 8]]
    assert batch.valid[:6, 0].all()
    assert batches.counters["unreadable_images"] == 1
    config.max_unreadable = 0
    with pytest.raises(DataError, match="'truncated.jpg' is truncated"):
        list(
            eval_batches(
                open_dataset(config).val,
                image_size=16,
                batch_size=7,
                data_config=config,
            )
        )


def test_images_without_objects_are_kept_or_left_out(write_coco, two_images):
    """As the paper's 117,266 of COCO's 118,287: a crowd alone is no object."""
    for image_id in (20, 21):
        entry = {"id": image_id, "file_name": f"{image_id}.png"}
        two_images["images"].insert(0, entry | {"height": 9, "width": 9})
    two_images["annotations"].append(annotation(14, 20, 4, [0, 0, 5, 5], iscrowd=1))
    config = write_coco(two_images)
    everything = open_dataset(config)
    assert len(everything.train) == 4
    config.filter_empty = True
    dataset = open_dataset(config)
    source = dataset.train
    assert [source[i]["image_id"] for i in (0, 1, -1)] == [7, 3, 3]
    assert (len(source), len(dataset.val)) == (2, 4)
    with pytest.raises(IndexError):
        source[2]
    assert source.index_of == {7: 0, 3: 1} and source.sizes.tolist()[1] == [16, 12]
    said = "2 images without an object left out (data.filter_empty)"
    assert any(said in line for line in dataset.report)
    assert not any("left out" in line for line in everything.report)
    two_images["annotations"] = two_images["annotations"][-1:]
    config = write_coco(two_images)
    with pytest.raises(DataError, match="data.filter_empty leaves no image"):
        open_dataset(config)
