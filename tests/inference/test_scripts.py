"""predict.py and evaluate.py, as the command line calls them."""

import json

import cv2
import numpy as np
import pytest

import evaluate
import predict
from agvm_jax.evaluation.detection import DetectionEvaluator


@pytest.fixture
def call(run_folder, capsys):
    """Calls a script's main for the run: (exit code, stdout, stderr)."""

    def run(script, *arguments):
        code = script.main([f"--run={run_folder}", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def test_a_folder_of_images(call, image_folder, tmp_path, run_folder):
    images = tmp_path / "images"
    (images / "deep").mkdir(parents=True)
    for name, to in (("00", "a.png"), ("01", "deep/a.png"), ("02", "b.png")):
        (images / to).write_bytes((image_folder / f"{name}.png").read_bytes())
    (images / "torn.png").write_bytes(b"\x89PNG torn")
    (images / "notes.txt").write_text("no image")
    out = tmp_path / "out"
    code, said, err = call(
        predict, f"--images={images}", f"--out={out}", "--score=0.001"
    )
    assert code == 0 and "3 images, 1 left out" in said
    assert "left out" in err and "torn.png" in err
    for name in ("a", "deep/a", "b"):
        drawn = cv2.imread(str(out / "drawn" / f"{name}.jpg"))
        assert drawn.shape == (480, 480, 3)
    content = json.loads((out / "predictions.json").read_text())
    assert [one["id"] for one in content["images"]] == [1, 2, 3]
    assert content["images"][1]["file_name"] == str(images / "b.png")
    assert content["annotations"] and all(
        one["score"] >= 0.001 for one in content["annotations"]
    )
    # A tool that reads COCO reads it.
    truth = content | {"annotations": content["annotations"]}
    ids = [one["id"] for one in content["categories"]]
    names = [one["name"] for one in content["categories"]]
    DetectionEvaluator(truth, ids, names)


def test_a_video(call, image_folder, tmp_path):
    path = tmp_path / "film.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 5, (64, 64))
    for name in sorted(image_folder.iterdir())[:3]:
        writer.write(cv2.imread(str(name)))
    writer.release()
    out = tmp_path / "out"
    code, *_ = call(predict, f"--video={path}", f"--out={out}")
    assert code == 0
    film = cv2.VideoCapture(str(out / "film.mp4"))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == 3 and film.read()[1].shape[0] == 64
    content = json.loads((out / "predictions.json").read_text())
    assert [one["file_name"] for one in content["images"]][2] == "film_000002"


@pytest.mark.parametrize("split", ["val", "train"])
def test_the_full_report_of_a_split(call, experiment, state, tmp_path, split):
    code, out, _ = call(evaluate, f"--split={split}", f"--out={tmp_path / 'e'}")
    assert code == 0 and "AP50" in out
    numbers = json.loads((tmp_path / "e" / "results.json").read_text())["numbers"]
    images = json.loads((tmp_path / "e" / "results.json").read_text())["images"]
    assert images == {"val": 8, "train": 64}[split]
    if split == "val":
        assert numbers == experiment.evaluation.run(state)
    assert (tmp_path / "e" / "worst.png").is_file()


def test_keys_of_the_config_can_be_changed(call, tmp_path):
    code, out, _ = call(
        evaluate,
        f"--out={tmp_path}",
        "--eval.image_size=(96,64)",
        "--data.shapes.seed=4",
    )
    assert code == 0 and "at 96 x 64 px" in out
    for wrong, words in (
        ("--data.rot=x", "did you mean --data.root?"),
        ("--data.max_boxes=many", "it is int in the config, such as 8"),
        ("--dta", "is not known: see --help"),
    ):
        code, _, err = call(evaluate, wrong)
        assert code == 2 and words in err


def test_what_a_server_takes(call, experiment, image_folder, tmp_path):
    listed = [{"id": 70 + i, "file_name": f"{i:02d}.png"} for i in range(3)]
    listed.append({"id": 99, "file_name": "none.png"})
    path = tmp_path / "test-dev.json"
    path.write_text(json.dumps({"images": listed}))
    options = f"--list={path}", f"--images={image_folder}", f"--out={tmp_path / 'o'}"
    code, out, err = call(evaluate, "--split=test", *options)
    assert code == 0 and "3 images, 1 left out" in out and "none.png" in err
    results = json.loads((tmp_path / "o" / "test-dev_results.json").read_text())
    assert {one["image_id"] for one in results} == {70, 71, 72}
    known = set(experiment.data.dataset.category_ids)
    assert {one["category_id"] for one in results} <= known
    assert np.array([one["bbox"] for one in results])[:, 2:].min() >= 0

    path.write_text(json.dumps({"images": listed, "annotations": [{}]}))
    assert "has annotations" in call(evaluate, "--split=test", *options)[2]
    assert "name the test images" in call(evaluate, "--split=test")[2]


def test_other_classes_are_refused(call, tmp_path, run_folder):
    root = tmp_path / "other"
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        cv2.imwrite(str(root / split / "1.png"), np.zeros((40, 60, 3), np.uint8))
        content = {
            "images": [{"id": 1, "file_name": "1.png", "height": 40, "width": 60}],
            "annotations": [
                {"id": 1, "image_id": 1, "category_id": 7, "bbox": [5, 5, 20, 20]}
            ],
            "categories": [{"id": 7, "name": "thing"}],
        }
        (root / f"instances_{split}.json").write_text(json.dumps(content))
    code, _, err = call(evaluate, "--data.name=coco_folder", f"--data.root={root}")
    assert code == 2 and "class 0 is" in err and "'thing'" in err


def test_bad_input_is_one_sentence(call, tmp_path, image_folder):
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        (["--images=nowhere"], "there is no file or folder nowhere"),
        ([f"--images={tmp_path / 'empty'}"], "there is no image in"),
        ([], "either --images or --video"),
        ([f"--images={image_folder}", "--score=2"], "must lie in 0 .. 1"),
        (["--data.root=x", "--images=x"], "only keys of model change what a model"),
        (["--video=nowhere.mp4"], "there is no video"),
        ([f"--video={image_folder / 'x'}"], "there is no video"),
    ):
        code, _, err = call(predict, *arguments)
        assert code == 2 and words in err
        assert err.startswith("error: ") and err.count("\n") == 1
