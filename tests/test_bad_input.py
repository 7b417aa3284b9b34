"""Bad input: exit code 2 and one sentence that names the thing and the remedy."""

import json
from pathlib import Path

import pytest

from agvm_jax.training import loop
from agvm_jax.training.restoring import Restored
from agvm_jax.training.state import create_state
from benchmarks.coco_writer import coco_content, flat_png, write_split


@pytest.fixture
def folder(tmp_path):
    """A COCO-format folder of three images; tests break it."""
    root = tmp_path / "folder"
    encoded = {f"{i}.png": flat_png(40, 60, 40 * i) for i in range(1, 4)}
    content = coco_content(
        [(name, 40, 60) for name in encoded],
        [(i, (5, 5, 20, 20)) for i in range(1, 4)],
        (7, "thing"),
    )
    for split in ("train", "val"):
        file = root / f"instances_{split}.json"
        write_split(file, root / split, content, encoded)
    return root


def read(root, split="train"):
    return json.loads((root / f"instances_{split}.json").read_text())


def write(root, split, content):
    (root / f"instances_{split}.json").write_text(json.dumps(content))


def with_folder(root):
    return (
        "--config.data.name=coco_folder",
        f"--config.data.root={root}",
        "--config.batch_size=8",
        "--config.steps=1",
    )


def test_an_unknown_key_is_named_with_those_that_may_be_meant(complaint):
    err = complaint("--config.batchsize=3")
    assert err.startswith(
        "error: --config.batchsize: there is no such key: did you mean batch_size"
    )
    err = complaint("--config.model.rpn_samples=5")
    assert "did you mean model.rpn.samples?" in err


def test_a_wrong_variant_is_named_and_a_wrong_key_beside_a_variant(complaint):
    err = complaint(config="configs/faster_rcnn.py:2x")
    assert "no variant '2x': use 1x_ms, 3x_ms or lsj, as in --config" in err
    err = complaint(config="configs/quickstart.py:lsj")
    assert err == "error: configs/quickstart.py has no variants: leave ':lsj' out.\n"
    err = complaint("--config.batchsize=3", config="configs/mask_rcnn.py:lsj")
    assert err.startswith("error: --config.batchsize: there is no such key")


def test_a_missing_config_file_is_named(complaint):
    assert "nowhere.py" in complaint(config="configs/nowhere.py")


def test_a_batch_that_the_devices_do_not_divide(complaint):
    err = complaint("--config.batch_size=12")
    assert "batch_size=12" in err and "8 devices" in err and "8 or 16" in err


def test_a_micro_batch_that_does_not_divide(complaint):
    err = complaint("--config.batch_size=80", "--config.micro_batch_size=4")
    assert "micro_batch_size=4" in err and "use 2" in err


def test_a_batch_that_would_need_two_frames(complaint, tmp_path):
    """Nothing is written, so the mended command does not find another run's folder."""
    err = complaint("--config.batch_size=16", "--config.data.orientation_group=7")
    assert "orientation_group is 7" in err and "multiple of" in err
    assert not (tmp_path / "run").exists()


def test_a_key_of_the_data_that_is_out_of_range(complaint, tmp_path):
    assert "data.flip is 1.5; it must lie in 0 .. 1" in complaint(
        "--config.data.flip=1.5"
    )
    assert not (tmp_path / "run").exists()


def test_an_unknown_backbone_lists_the_known_ones(complaint):
    err = complaint("--config.model.backbone=resnet19")
    assert "resnet19" in err and "resnet18" in err


def test_an_unknown_optimizer_lists_the_known_ones(complaint):
    err = complaint("--config.optim.name=adam")
    assert "'adam'" in err and "adamw" in err


def test_an_unknown_anchor_lists_the_modules(complaint):
    err = complaint("--config.agvm.anchor=neck")
    assert "neck" in err and "backbone" in err and "fpn" in err


def test_the_old_name_of_an_estimator_says_the_new_one(complaint):
    assert "called 'norms' now" in complaint("--config.agvm.estimator=replicas")


def test_megdet_needs_synced_batch_norm(complaint):
    err = complaint("--config.optim.name=megdet", "--config.model.norm=frozen")
    assert "--config.model.norm=synced" in err


def test_a_mask_head_without_masks(complaint):
    err = complaint("--config.model.detector=mask_rcnn")
    assert "learns from masks" in err and "--config.data.mask_size=56" in err


def test_a_missing_folder(complaint, tmp_path):
    err = complaint(*with_folder(tmp_path / "nowhere"))
    assert "nowhere" in err


def test_coco_that_is_not_there_is_told_in_two_lines(complaint):
    err = complaint(config="configs/retinanet_10k.py")
    assert "annotations" in err and "train2017" in err and "data.root" in err
    assert len(err.strip().splitlines()) <= 2


def test_a_missing_annotation_file(complaint, folder):
    (folder / "instances_val.json").unlink()
    assert "instances_val.json" in complaint(*with_folder(folder))


def test_broken_json(complaint, folder):
    (folder / "instances_train.json").write_text('{"images": [')
    err = complaint(*with_folder(folder))
    assert "instances_train.json" in err and "line 1" in err


def test_an_annotation_of_an_absent_image(complaint, folder):
    content = read(folder)
    content["annotations"][0]["image_id"] = 99
    write(folder, "train", content)
    assert "99" in complaint(*with_folder(folder))


def test_an_annotation_of_an_absent_category(complaint, folder):
    content = read(folder)
    content["annotations"][0]["category_id"] = 3
    write(folder, "train", content)
    assert "3" in complaint(*with_folder(folder))


def test_too_many_unreadable_images_are_listed(complaint, folder, monkeypatch):
    """They are found when the first batch is read; that takes no weights."""
    for i in (1, 2, 3):
        (folder / "train" / f"{i}.png").write_bytes(b"not an image")
    monkeypatch.setattr(loop, "first_state", lambda *_: Restored(nothing(), 0, {}))
    err = complaint(*with_folder(folder), "--config.data.max_unreadable=1")
    assert "1.png" in err and "2.png" in err


def nothing():
    """A state of no model, which is never stepped."""
    return create_state({}, {}, (), (), seed=0)


def test_weights_that_are_not_there(complaint, tmp_path):
    err = complaint("--config.train.init_from=resnet19")
    assert "'resnet19'" in err and "resnet18" in err and "hf:" in err
    # Nothing is left behind, so that the command can be put right.
    assert not (tmp_path / "run").exists()


def test_weights_that_are_cut_short(complaint, tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"PK\x03\x04")
    err = complaint(f"--config.train.init_from={tmp_path / 'weights.pth'}")
    assert "weights.pth is cut short" in err


@pytest.mark.parametrize("key", ["workdir", "data.cache_dir", "train.weights_dir"])
def test_a_place_that_is_no_folder_of_this_machine(complaint, key):
    """It became a folder called "gs:", and the run was lost with the machine."""
    err = complaint(f"--config.{key}=gs://bucket/run")
    assert f"{key}=gs://bucket/run" in err and "gs:// are not supported" in err
    assert not Path("gs:").exists()


def test_a_run_to_start_from_that_is_not_there(complaint, tmp_path):
    err = complaint(f"--config.train.start_from={tmp_path / 'nowhere'}:3")
    assert "nowhere" in err and "there is no checkpoint" in err
    assert not (tmp_path / "run").exists()


def test_a_run_folder_of_another_config_is_left_alone(complaint, tmp_path):
    (tmp_path / "run").mkdir()
    config = tmp_path / "run" / "config.json"
    config.write_text(json.dumps({"batch_size": 4}))
    err = complaint()
    assert "batch_size is 4 there and 8 here" in err
    assert "with --config.workdir=FOLDER" in err  # a name would not help here
    assert json.loads(config.read_text()) == {"batch_size": 4}


def test_a_config_that_is_not_there(complaint):
    assert "config nowhere.py cannot be read: there is no such file" in complaint(
        config="nowhere.py:lsj"
    )
