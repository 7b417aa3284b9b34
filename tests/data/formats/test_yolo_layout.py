"""data.yaml as Ultralytics reads it: folders, lists; or the usual layouts."""

import pathlib

import pytest
from coco_files import noise_png

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.dataset import open_dataset

LINE = "0 0.5 0.5 0.2 0.2\n"


def put(root, *images, labels=True):
    """Images, each with a label file where Ultralytics looks for it."""
    for image in images:
        path = root / image
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise_png(8, 12))
        if labels:
            parts = list(pathlib.PurePosixPath(image).parts)
            if "images" in parts:
                parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
            text = root.joinpath(*parts).with_suffix(".txt")
            text.parent.mkdir(parents=True, exist_ok=True)
            text.write_text(LINE)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "set"


@pytest.fixture
def open_yolo(root, data_config):
    """A function: data.yaml's text -> names of the images of train and of val."""

    def run(yaml, name="yolo", path=root):
        if yaml is not None:
            (root / "data.yaml").write_text(yaml)
        data_config.name, data_config.root = name, str(path)
        dataset = open_dataset(data_config)
        for source in (dataset.train, dataset.val):
            assert source.report.boxes == len(source)  # every label was found
        return tuple(
            [source[k]["file_name"] for k in range(len(source))]
            for source in (dataset.train, dataset.val)
        )

    return run


@pytest.mark.parametrize(
    "yaml",
    [
        "train: images/train2017\nval: images/val2017",
        "path: .\ntrain: images/train2017\nval: images/val2017/",
        "path: set\ntrain: images/train2017\nval: images/val2017",  # coco8.yaml
        "path: {root}\ntrain: images/train2017\nval: {root}/images/val2017",
        "path: {root}/images\ntrain: train2017\nvalidation: val2017",
        "train: ../images/train2017\nval: ../images/val2017",  # Roboflow
        "train: [images/train2017]\nval: [images/val2017]",
        "path: /another/machine\ntrain: images/train2017\nval: images/val2017",
    ],
)
def test_folders_are_those_of_data_yaml(yaml, root, open_yolo):
    put(root, "images/train2017/a.png", "images/val2017/b.png")
    put(root, "images/train/other.png", "images/val/other.png")
    yaml += "\nnames: {{0: ape}}\n"
    assert open_yolo(yaml.format(root=root)) == (["a.png"], ["b.png"])


def test_folders_of_images_may_be_nested(root, open_yolo):
    put(root, "images/train/x/a.png", "images/train/x/y/a.png", "images/train/a.JPG")
    put(root, "images/train/.hidden/a.png", "images/val/b.png")
    (root / "images" / "train" / "x" / "up").symlink_to(root / "images" / "train")
    names = ["a.JPG", "x/a.png", "x/y/a.png"]
    assert open_yolo("names: [ape]") == (names, ["b.png"])


def test_several_folders_make_one_split_and_names_tell_them_apart(root, open_yolo):
    put(root, "one/images/a.png", "two/images/a.png", "val/images/b.png")
    found = open_yolo("names: [ape]\ntrain: [one/images, two/images]\nval: val/images")
    assert found == (["one/images/a.png", "two/images/a.png"], ["b.png"])


def test_lists_of_images_are_read(root, open_yolo, tmp_path):
    """Lines are relative to the list, to the set, or absolute."""
    put(root, "images/a.png", "images/b.png", "images/c.png", "images/not.png")
    put(tmp_path / "elsewhere", "images/d.png")
    (root / "lists").mkdir()
    lines = ["./../images/b.png", "images/a.png", "", f"{root}/images/c.png"]
    (root / "lists" / "train.txt").write_text("\r\n".join(lines))
    (root / "val.txt").write_text(f"{tmp_path}/elsewhere/images/d.png\n")
    train, val = open_yolo("names: [ape]\ntrain: lists/train.txt\nval: val.txt")
    assert train == ["images/b.png", "images/a.png", "images/c.png"]
    assert val == [f"{tmp_path}/elsewhere/images/d.png"]
    (root / "val.txt").write_text("images/gone.png\nimages/a.png\n")
    with pytest.raises(DataError, match="1 of the 2 images that .*val.txt lists.*gone"):
        open_yolo(None)


def test_labels_lie_beside_images_that_are_in_no_folder_of_that_name(root, open_yolo):
    put(root, "train/a.png", "val/b.png")
    assert open_yolo("names: [ape]\ntrain: train\nval: val") == (["a.png"], ["b.png"])


def test_of_several_folders_of_that_name_the_last_one_counts(root, open_yolo):
    put(root, "images/train/images/a.png", "images/val/images/b.png")
    yaml = "names: [ape]\ntrain: images/train/images\nval: images/val/images"
    assert open_yolo(yaml) == (["a.png"], ["b.png"])


def test_folders_above_the_set_do_not_count(tmp_path, data_config):
    root = tmp_path / "images" / "set"
    put(root, "train/a.png", "val/b.png")
    (root / "data.yaml").write_text("names: [ape]\ntrain: train\nval: val")
    data_config.name, data_config.root = "yolo", str(root)
    assert open_dataset(data_config).train.report.boxes == 1


def test_paths_of_another_machine_give_way_to_the_usual_layout_and_it_is_said(
    root, open_yolo, data_config
):
    put(root, "images/train/a.png", "images/val/b.png")
    yaml = "names: [ape]\ntrain: /mnt/x/train\nval: /mnt/x/val"
    assert open_yolo(yaml) == (["a.png"], ["b.png"])
    report = open_dataset(data_config).report
    assert report[2] == "    data.yaml names '/mnt/x/train', which is not there"


def test_the_root_may_be_a_yaml_file_of_any_name(root, open_yolo):
    put(root, "images/train2017/a.png", "images/val2017/b.png")
    yaml = root / "coco8.yaml"
    yaml.write_text("names: [x]\ntrain: images/train2017\nval: images/val2017")
    for name in ("yolo", "auto"):
        assert open_yolo(None, name, yaml) == (["a.png"], ["b.png"])
        assert open_yolo(None, name) == (["a.png"], ["b.png"])  # the only one there
    (root.parent / "configs").mkdir()
    yaml = yaml.rename(root.parent / "configs" / "coco8.yaml")
    yaml.write_text(yaml.read_text() + "\npath: set")  # in a folder beside it
    assert open_yolo(None, "yolo", yaml) == (["a.png"], ["b.png"])
    with pytest.raises(DataError, match="no file .*gone.yaml"):
        open_yolo(None, path=root / "gone.yaml")


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        (
            "train: images/gone\nval: images/val2017",
            "names 'images/gone' for the tr",
        ),
        (
            "train: images/train2017\nval: [images/val2017, x]",
            "names 'x' for the val",
        ),
        ("train: images/train2017\nval: 3", "val is '3', not a path"),
        ("train: images/train2017\nval: empty", "There is no image in .*empty"),
        ("val: images/val2017", "no training images, neither where data.yaml"),
    ],
)
def test_what_is_not_there_is_named(yaml, words, root, open_yolo):
    put(root, "images/train2017/a.png", "images/val2017/b.png")
    (root / "empty").mkdir()
    with pytest.raises(DataError, match=words):
        open_yolo(f"names: [ape]\n{yaml}")


def test_images_without_any_label_file_are_no_set(root, open_yolo):
    put(root, "images/train/a.png")
    put(root, "images/val/b.png", labels=False)
    (root / "labels" / "val").mkdir()
    with pytest.raises(DataError, match="None of the 1 images of the val split has"):
        open_yolo("names: [ape]")
