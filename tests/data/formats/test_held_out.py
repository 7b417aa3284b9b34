"""Sets without a validation split: some images are held out, and it is said."""

import json
import pathlib
import shutil

import pytest
from coco_files import annotation, label_png, noise_png

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.dataset import open_dataset
from agvm_jax.data.formats import coco_folder
from agvm_jax.data.formats.held_out import VAL_DEFAULTS
from configs import base


def names(source):
    return [source[k]["file_name"] for k in range(len(source))]


@pytest.fixture
def whole(write_coco):
    """The config of a COCO folder of 20 images, each with a box, and nothing else."""
    content = {
        "images": [
            {"id": i, "file_name": f"{i:02d}.png", "height": 20, "width": 30}
            for i in range(20)
        ],
        "annotations": [annotation(i + 1, i, 1, [i, 1, 5, 5]) for i in range(20)],
        "categories": [{"id": 1, "name": "ape"}],
    }
    config = write_coco(content)
    root = pathlib.Path(config.root)
    shutil.rmtree(root / "val")
    (root / "instances_val.json").unlink()
    return config


def test_both_parts_are_the_whole_with_each_image_once(whole):
    dataset = open_dataset(whole)
    train, val = names(dataset.train), names(dataset.val)
    assert (len(train), len(val)) == (18, 2)
    assert sorted(train + val) == [f"{i:02d}.png" for i in range(20)]
    for source in (dataset.train, dataset.val):
        truth = source.ground_truth()
        assert [image["file_name"] for image in truth["images"]] == names(source)
        for k in range(len(source)):
            number = int(source[k]["file_name"][:2])
            assert source[k]["image_id"] == number
            assert source[k]["boxes"].tolist() == [[number, 1, number + 5, 6]]
            assert truth["annotations"][k]["bbox"][0] == number
    note = "no validation split is there: 10 % of the images are held out"
    keys = "(data.val_share=0.1, data.val_seed=0)"
    assert dataset.report[3] == f"    {note} for it {keys}"
    assert "\n".join(dataset.report).count(note) == 1


def test_the_choice_follows_from_names_share_and_seed(whole):
    def held(**options):
        config = whole.copy_and_resolve_references()
        config.update(options)
        return set(coco_folder.origins(config)("val", None).annotations().file_names)

    few, more = held(), held(val_share=0.5)
    assert held() == few and len(more) == 10 and few < more
    others = [held(val_seed=seed) for seed in range(1, 6)]
    assert len({frozenset(other) for other in others}) > 2
    assert len(held(val_share=0.001)) == 1 and len(held(val_share=0.999)) == 19
    # Added images leave nearly all where they were.
    before = held(val_share=0.3)
    path = pathlib.Path(whole.root) / "instances_train.json"
    text = path.read_text()
    path.write_text(text.replace('"00.png"', '"new.png"'))
    assert len(before ^ held(val_share=0.3)) <= 2


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_a_share_that_leaves_nothing_asks_for_the_split(share, whole):
    whole.val_share = share
    with pytest.raises(DataError, match=f"val_share is {share}: set it to a share bet"):
        open_dataset(whole)


def test_a_validation_split_that_is_named_must_be_there(whole):
    """A typing error must not silently train on other images."""
    whole.val_annotations = "validation.json"
    with pytest.raises(DataError, match="no annotation file .*validation.json"):
        open_dataset(whole)
    whole.val_annotations = "instances_val.json"
    for name in ("val", "valid"):
        (pathlib.Path(whole.root) / name).mkdir()
        with pytest.raises(DataError, match="no annotation file .*instances_val.json"):
            open_dataset(whole)
        (pathlib.Path(whole.root) / name).rmdir()
    whole.val_annotations = whole.val_images = ""  # none, on purpose
    assert len(open_dataset(whole).val) == 2


def test_the_names_that_count_as_usual_are_the_configs():
    config = base.get_config().data
    assert {key: getattr(config, key) for key in VAL_DEFAULTS} == VAL_DEFAULTS


def test_one_image_cannot_be_divided(whole):
    path = pathlib.Path(whole.root) / "instances_train.json"
    path.write_text(
        '{"images": [{"id": 1, "file_name": "00.png"}], "annotations": [],'
        ' "categories": [{"id": 1, "name": "ape"}]}'
    )
    with pytest.raises(DataError, match="one image and no validation split"):
        open_dataset(whole)


def test_a_yolo_set_and_a_label_folder_are_divided_too(tmp_path, data_config):
    for k in range(4):
        for folder, name, data in (
            ("yolo/images/train", f"{k}.png", noise_png(20, 30)),
            ("yolo/labels/train", f"{k}.txt", b"0 0.5 0.5 0.2 0.2"),
            ("labels/train", f"{k}.png", noise_png(20, 30)),
            ("labels/train_labels", f"{k}.png", label_png([[k % 2] * 30] * 20)),
        ):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_bytes(data)
    (tmp_path / "yolo" / "data.yaml").write_text("names: [ape]")
    (tmp_path / "labels" / "classes.txt").write_text("road\nsky")
    data_config.val_share = 0.25
    for name, folder in (("yolo", "yolo"), ("label_folder", "labels")):
        data_config.name, data_config.root = name, str(tmp_path / folder)
        dataset = open_dataset(data_config)
        assert (len(dataset.train), len(dataset.val)) == (3, 1)
        held = dataset.val[0]
        if name == "yolo":
            assert len(held["boxes"]) == 1
        else:
            assert held["segment_classes"].tolist() == [int(held["file_name"][0]) % 2]


def test_what_lvis_says_of_an_image_stays_with_it(whole):
    path = pathlib.Path(whole.root) / "instances_train.json"
    content = json.loads(path.read_text())
    for image in content["images"]:
        image["neg_category_ids"] = [100 + image["id"]]
    path.write_text(json.dumps(content))
    dataset = open_dataset(whole)
    for source in (dataset.train, dataset.val):
        for image in source.ground_truth()["images"]:
            assert image["neg_category_ids"] == [100 + image["id"]]
