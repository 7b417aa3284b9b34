"""Which builder reads a folder: found out, or what was looked for is said."""

import pathlib
import shutil

import cv2
import numpy as np
import pytest
from coco_files import noise_png

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.dataset import open_dataset


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "my set"
    root.mkdir()
    return root


def put(root, folder, name, data):
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / folder / name).write_bytes(data)


def label():
    return cv2.imencode(".png", np.ones((20, 30), np.uint8))[1].tobytes()


def make_coco(root, write_coco, two_images):
    made = pathlib.Path(write_coco(two_images).root)
    for split in ("train", "val"):
        shutil.copytree(made / split, root / f"{split}2017")
        (root / "annotations").mkdir(exist_ok=True)
        shutil.copy(
            made / f"instances_{split}.json",
            root / "annotations" / f"instances_{split}2017.json",
        )


def make_coco_folder(root, write_coco, two_images):
    shutil.copytree(write_coco(two_images).root, root, dirs_exist_ok=True)


def make_roboflow(root, write_coco, two_images):
    made = pathlib.Path(write_coco(two_images).root)
    for split, folder in (("train", "train"), ("val", "valid")):
        shutil.copytree(made / split, root / folder)
        shutil.copy(
            made / f"instances_{split}.json", root / folder / "_annotations.coco.json"
        )


def make_ade20k(root, *_):
    for split in ("training", "validation"):
        put(root, f"images/{split}", "a.jpg", noise_png(20, 30))
        put(root, f"annotations/{split}", "a.png", label())
    (root / "objectInfo150.txt").write_text("Idx\tName\n1\twall\n")


def make_label_folder(root, *_):
    for split in ("train", "val"):
        put(root, split, "a.png", noise_png(20, 30))
        put(root, f"{split}_labels", "a.png", label())
    (root / "classes.txt").write_text("road\nsky\n")


def make_yolo(root, *_):
    for split in ("train", "val"):
        put(root, f"images/{split}", "a.png", noise_png(20, 30))
        put(root, f"labels/{split}", "a.txt", b"0 0.5 0.5 0.2 0.2\n")
    (root / "data.yaml").write_text("names: [ape]\n")


MAKERS = {
    "coco": make_coco,
    "coco_folder": make_coco_folder,
    "ade20k": make_ade20k,
    "label_folder": make_label_folder,
    "yolo": make_yolo,
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_layout_is_detected_and_shares_what_was_prepared_by_its_name(
    name, folder, data_config, write_coco, two_images
):
    MAKERS[name](folder, write_coco, two_images)
    data_config.name, data_config.root = "auto", str(folder)
    found = open_dataset(data_config)
    assert found.name == name and found.report[0].startswith(f"{name}: ")
    data_config.name = name
    assert open_dataset(data_config).train.folder == found.train.folder


def test_a_folder_that_roboflow_exported_is_read(
    folder, data_config, write_coco, two_images
):
    make_roboflow(folder, write_coco, two_images)
    data_config.name, data_config.root = "auto", str(folder)
    dataset = open_dataset(data_config)
    assert dataset.name == "coco_folder"
    assert (len(dataset.train), len(dataset.val)) == (2, 2)
    assert "no validation split" not in "\n".join(dataset.report)
    shutil.rmtree(folder / "valid")
    assert (len(open_dataset(data_config).train)) == 1


def test_label_pngs_beside_coco_annotations_are_no_layout_of_their_own(
    folder, data_config, write_coco, two_images
):
    make_coco_folder(folder, write_coco, two_images)
    make_label_folder(folder)
    data_config.name, data_config.root = "auto", str(folder)
    assert open_dataset(data_config).name == "coco_folder"


def test_a_folder_of_two_layouts_has_to_be_told(folder, data_config):
    make_ade20k(folder)
    make_yolo(folder)
    data_config.name, data_config.root = "auto", str(folder)
    with pytest.raises(
        DataError,
        match=r"as ade20k \(by images/training/ and .* or as yolo \(by .*=ade20k",
    ):
        open_dataset(data_config)


def test_a_folder_of_no_layout_hears_of_all_of_them(folder, data_config):
    data_config.name, data_config.root = "auto", str(folder)
    data_config.train_annotations = "mine.json"
    with pytest.raises(DataError, match="no format that is known.*mine.json.*yolo"):
        open_dataset(data_config)
    data_config.root = ""
    with pytest.raises(DataError, match="config.data.root is empty: set --config"):
        open_dataset(data_config)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train: images/mine\nnames: [ape]\n", "names 'images/mine' for the train"),
        ("train: [images\nnames: [ape]\n", "data.yaml is not valid YAML"),
    ],
)
def test_a_data_yaml_that_is_wrong_hears_what_is_wrong(
    content, message, folder, data_config
):
    put(folder, "pictures", "a.png", noise_png(20, 30))
    (folder / "data.yaml").write_text(content)
    data_config.name, data_config.root = "auto", str(folder)
    with pytest.raises(DataError, match=message):
        open_dataset(data_config)


@pytest.mark.parametrize(
    ("file", "content", "name"),
    [
        ("Annotations/1.xml", b'<annotation verified="no">', "Pascal VOC"),
        ("1.xml", b"<?xml?>\n<annotation>", "Pascal VOC"),
        ("annotations.xml", b"<?xml?>\n<annotations>", "CVAT"),
        ("train/1.json", b'{"version": "5.0", "shapes": []}', "LabelMe"),
    ],
)
def test_a_layout_that_others_convert_is_recognised(
    file, content, name, folder, data_config
):
    path = folder / file
    put(path.parent, "", path.name, content)
    data_config.name, data_config.root = "auto", str(folder)
    with pytest.raises(DataError, match=f"annotations of {name}, .* docs/data.md"):
        open_dataset(data_config)


def test_a_root_that_is_one_folder_too_high_hears_which_it_should_be(
    folder, data_config
):
    (folder / "a").mkdir()
    (folder / "inner").mkdir()
    make_yolo(folder / "inner")
    data_config.name, data_config.root = "auto", str(folder)
    with pytest.raises(DataError, match=f"of yolo: set .*root={folder / 'inner'}"):
        open_dataset(data_config)


def test_label_pngs_in_a_folder_of_another_name_are_seen(folder, data_config):
    make_label_folder(folder)
    (folder / "train_labels").rename(folder / "trainannot")
    data_config.name, data_config.root = "auto", str(folder)
    with pytest.raises(
        DataError, match="PNGs of trainannot/ .*train_labels=trainannot"
    ):
        open_dataset(data_config)
