"""Folders of images and label PNGs: classes, void, and what is wrong with them."""

import os
import pathlib
import shutil
import sys

import numpy as np
import pytest
from coco_files import label_png, noise_png
from PIL import Image

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.annotations.segments import load_segments
from agvm_jax.data.dataset import open_dataset
from agvm_jax.data.formats.files import label_listing
from agvm_jax.data.pipeline import eval_batches


@pytest.fixture
def write_labels(tmp_path, data_config):
    """A function that writes a label folder and returns the config to open it."""

    def write(labels, names=("road", "sky"), void=(255,)):
        root = tmp_path / "labelled"
        for split in ("train", "val"):
            for kind in (split, f"{split}_labels"):
                (root / kind).mkdir(parents=True, exist_ok=True)
            for name, values in labels.items():
                (root / split / f"{name}.png").write_bytes(noise_png(*values.shape))
                path = root / f"{split}_labels" / f"{name}.png"
                path.write_bytes(label_png(values))
        data_config.name = "label_folder"
        data_config.root = str(root)
        data_config.label_names, data_config.label_void = names, void
        data_config.semantic = "all"
        data_config.semantic_stride = 1
        return data_config

    return write


@pytest.fixture
def labels():
    return {
        "b": np.array([[0, 1, 255], [1, 1, 0]], np.uint8).repeat(8, 0).repeat(8, 1),
        "a": np.array([[1, 0], [0, 255]], np.uint8).repeat(8, 0).repeat(8, 1),
    }


def test_labels_reach_the_batch_with_void_ignored(write_labels, labels):
    config = write_labels(labels)
    dataset = open_dataset(config)
    assert dataset.class_names == () and dataset.stuff_names == ("road", "sky")
    assert dataset.label_names("all") == ("road", "sky")
    assert dataset.report[1] == "  train: 2 images, 2 label maps"
    (batch,) = eval_batches(
        dataset.val, image_size=(16, 24), batch_size=2, data_config=config
    )
    expected = labels["a"].astype(int)  # in the order of names
    expected[expected == 255] = -1
    np.testing.assert_array_equal(batch.semantic[0, :, :16], expected)
    assert (batch.semantic[0, :, 16:] == -1).all() and not batch.valid.any()


def test_palette_pngs_reach_the_batch_by_their_indices(write_labels, labels):
    """As those of Pascal VOC, whose colours are for people."""
    config = write_labels(labels)
    for split in ("train", "val"):
        for name, values in labels.items():
            image = Image.frombytes("P", values.shape[::-1], values.tobytes())
            image.putpalette(bytes(k * 7 % 256 for k in range(768)))
            image.save(f"{config.root}/{split}_labels/{name}.png")
    (batch,) = eval_batches(
        open_dataset(config).val, image_size=(16, 24), batch_size=2, data_config=config
    )
    expected = np.where(labels["a"] == 255, -1, labels["a"].astype(int))
    np.testing.assert_array_equal(batch.semantic[0, :, :16], expected)


def test_images_and_labels_may_lie_in_folders_of_folders(write_labels, labels):
    config = write_labels(labels)
    root = pathlib.Path(config.root)
    for folder in ("train", "train_labels"):
        (root / folder / "street" / ".hidden").mkdir(parents=True)
        (root / folder / "a.png").rename(root / folder / "street" / "a.png")
    (root / "train" / "street" / "._a.png").write_bytes(b"what macOS puts into zips")
    (root / "train" / "street" / ".hidden" / "x.png").write_bytes(b"")
    source = open_dataset(config).train
    assert [source[k]["file_name"] for k in range(2)] == ["b.png", "street/a.png"]
    assert load_segments(source[1]).labels(0, False)[0, 0] == 1
    before = source.folder
    (root / "train" / "street" / "a.png").write_bytes(noise_png(16, 16, seed=9)[:-1])
    assert open_dataset(config).train.folder != before


@pytest.mark.parametrize("folder", ["train", "train/labels"])
def test_labels_in_the_folder_of_the_images_are_no_images(folder, write_labels, labels):
    config = write_labels(labels)
    root = pathlib.Path(config.root)
    for name in labels:
        (root / "train" / f"{name}.png").rename(root / "train" / f"{name}.jpg")
    (root / folder).mkdir(exist_ok=True)
    for name in labels:
        (root / "train_labels" / f"{name}.png").rename(root / folder / f"{name}.png")
    config.train_labels = folder
    source = open_dataset(config).train
    assert [source[k]["file_name"] for k in range(len(source))] == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize(
    ("void", "values", "expected"),
    [
        ((0,), [[0, 1], [2, 2]], [[-1, 0], [1, 1]]),  # as ADE20K counts
        ((1,), [[0, 1], [2, 2]], [[0, -1], [1, 1]]),
        ((2, 7), [[0, 7], [2, 1]], [[0, -1], [-1, 1]]),
        ((0, 2), [[1, 2], [0, 3]], [[0, -1], [-1, 1]]),
        ((), [[0, 0], [1, 1]], [[0, 0], [1, 1]]),
        ((65535,), [[0, 65535], [1, 1]], [[0, -1], [1, 1]]),
    ],
)
def test_values_that_are_not_void_are_the_classes_in_order(
    void, values, expected, write_labels
):
    values = np.array(values, np.uint16).repeat(8, 0).repeat(8, 1)
    config = write_labels({"x": values}, void=void)
    (batch,) = eval_batches(
        open_dataset(config).val, image_size=16, batch_size=1, data_config=config
    )
    expected = np.array(expected).repeat(8, 0).repeat(8, 1)
    np.testing.assert_array_equal(batch.semantic[0], expected)


def test_names_come_from_the_config_or_from_files(write_labels, labels):
    config = write_labels(labels, names=())
    root = config.root
    with pytest.raises(DataError, match="no names: write classes.txt there"):
        open_dataset(config)
    with open(f"{root}/objectInfo150.txt", "w") as file:
        file.write(
            "Idx\tRatio\tTrain\tVal\tName\n1\t.1\t9\t9\twall\n2\t.1\t9\t9\ta, b\n"
        )
    assert open_dataset(config).stuff_names == ("wall", "a")
    with open(f"{root}/classes.txt", "w") as file:
        file.write("eins\n\nzwei\n")
    assert open_dataset(config).stuff_names == ("eins", "zwei")


def test_a_value_without_a_class_is_named(write_labels, labels):
    labels["a"][3, 3] = 9
    with pytest.raises(DataError, match=r"a.png holds the values \[9\].*2 classes"):
        open_dataset(write_labels(labels))


def test_images_without_labels_are_listed(write_labels, labels, tmp_path):
    config = write_labels(labels)
    (tmp_path / "labelled" / "train" / "extra.jpg").write_bytes(noise_png(8, 8))
    with pytest.raises(DataError, match="1 of the 3 images .*'extra.jpg'"):
        open_dataset(config)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"nothing", "a.png is not a PNG"),
        (label_png(np.zeros((16, 16, 3), np.uint8)), "a.png holds colours"),
        (label_png(np.zeros((16, 16), np.uint8))[:40], "a.png is truncated"),
        (label_png(np.eye(16, dtype=np.uint8))[:-8], "a.png is truncated"),
    ],
)
def test_a_label_file_that_is_none_is_named(content, words, write_labels, labels):
    config = write_labels(labels)
    with open(f"{config.root}/train_labels/a.png", "wb") as file:
        file.write(content)
    with pytest.raises(DataError, match=words):
        open_dataset(config)


def test_labels_of_another_size_than_their_image_are_refused(write_labels, labels):
    config = write_labels(labels)
    with open(f"{config.root}/val/a.png", "wb") as file:
        file.write(noise_png(16, 17))
    with pytest.raises(DataError, match=r"'a.png' with 17x16 .*a.png with 16x16"):
        open_dataset(config)


def test_an_image_that_cannot_be_read_has_no_size_to_differ(write_labels, labels):
    """It counts as unreadable, of which a set may have some."""
    config = write_labels(labels)
    with open(f"{config.root}/val/a.png", "wb") as file:
        file.write(b"no image")
    config.max_unreadable = 0
    batches = eval_batches(
        open_dataset(config).val, image_size=16, batch_size=2, data_config=config
    )
    with pytest.raises(DataError, match="'a.png' cannot be decoded"):
        list(batches)


def test_an_empty_folder_is_refused(write_labels):
    with pytest.raises(DataError, match="no image in"):
        open_dataset(write_labels({}))


def test_the_ade20k_layout_is_that_of_its_archive(write_labels, labels, tmp_path):
    config = write_labels(labels, names=())
    root = tmp_path / "labelled"
    (root / "images").mkdir()
    (root / "annotations").mkdir()
    for split, long in (("train", "training"), ("val", "validation")):
        (root / split).rename(root / "images" / long)
        (root / f"{split}_labels").rename(root / "annotations" / long)
    (root / "objectInfo150.txt").write_text(
        "Idx\tRatio\tTrain\tVal\tName\n" + "1\t0\t0\t0\tx\n" * 255
    )
    config.name = "ade20k"
    dataset = open_dataset(config)
    (batch,) = eval_batches(
        dataset.val, image_size=(16, 24), batch_size=2, data_config=config
    )
    expected = labels["a"].astype(int) - 1  # 0 is void
    np.testing.assert_array_equal(batch.semantic[0, :, :16], expected)


def test_missing_label_folders_are_named(write_labels, labels):
    config = write_labels(labels)
    config.train_labels = "masks"
    with pytest.raises(DataError, match="no label folder .*masks: put it there"):
        open_dataset(config)


def test_names_may_have_spaces_and_letters_of_any_language(write_labels, labels):
    config = write_labels({"zwölf 犬": labels["a"]})
    source = open_dataset(config).train
    assert source[0]["file_name"] == "zwölf 犬.png"
    assert source.report.label_maps == 1


@pytest.mark.parametrize("void", [(-1,), (70000,)])
def test_void_values_that_no_pixel_can_have_are_refused(void, write_labels, labels):
    with pytest.raises(DataError, match="config.data.label_void"):
        open_dataset(write_labels(labels, void=void))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' names are text")
def test_a_name_that_is_no_text_is_named(write_labels, labels):
    config = write_labels(labels)
    for folder in ("train", "train_labels"):
        path = os.fsencode(f"{config.root}/{folder}")
        shutil.copy(path + b"/a.png", path + b"/\xff.png")
    with pytest.raises(DataError, match="'.udcff.png' is not UTF-8 text; rename"):
        open_dataset(config)


def test_labels_edited_in_place_are_another_data_set(tmp_path):
    """Both files have the same number of bytes; only their pixels differ."""
    sizes = set()
    prints = set()
    for value in (1, 2):
        Image.fromarray(np.full((40, 60), value, np.uint8)).save(tmp_path / "1.png")
        sizes.add((tmp_path / "1.png").stat().st_size)
        prints.add(str(label_listing(tmp_path)))
    assert len(sizes) == 1 and len(prints) == 2
