"""A format of one file and one line in the table is found, prepared and trained on."""

import numpy as np
import pytest
import toy_format

from agvm_jax.data import DataError, dataset, open_dataset, train_batches
from benchmarks.coco_writer import flat_png


@pytest.fixture
def toy_folder(tmp_path, data_config, monkeypatch):
    monkeypatch.setitem(dataset.FORMATS, "toy", toy_format)
    root = tmp_path / "toys"
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        for i in range(4):
            (root / split / f"{i}.png").write_bytes(flat_png(32, 48, 60 * i))
        lines = "\n".join(f"{i}.png,{i},2,10,20" for i in range(4))
        (root / split / "boxes.csv").write_text(lines)
    data_config.root = str(root)
    return data_config


@pytest.mark.parametrize("name", ["toy", "auto", ""])
def test_a_format_of_one_file_gives_batches(name, toy_folder):
    toy_folder.name, toy_folder.flip = name, 0.0
    found = open_dataset(toy_folder)
    reason = "" if name == "toy" else " (found by train/boxes.csv)"
    assert found.report[0] == f"toy: 1 classes{reason}"
    batches = train_batches(
        found.train, image_size=(32, 48), batch_size=4, seed=0, data_config=toy_folder
    )
    batch = next(batches)
    batches.close()
    for row, i in enumerate(batch.image_id.tolist()):
        assert (batch.image[row] == 60 * i).all()
        np.testing.assert_array_equal(batch.boxes[row, 0], [i, 2, i + 10, 22])
    assert sorted(batch.image_id.tolist()) == [0, 1, 2, 3]


def test_a_new_format_is_among_what_a_folder_of_none_is_told(toy_folder, tmp_path):
    toy_folder.root = str(tmp_path / "empty")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"train/boxes.csv \(toy\)"):
        open_dataset(toy_folder)


def test_a_root_beside_the_generated_set_is_not_passed_over(toy_folder):
    toy_folder.name = "shapes"
    with pytest.raises(DataError, match="data.root is .*toys, but .*name=auto"):
        open_dataset(toy_folder)
