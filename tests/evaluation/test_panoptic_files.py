"""Panoptic files, and ground truth or predictions that cannot be used."""

import copy

import numpy as np
import pytest
from panoptic_sets import evaluator_of, make_set
from PIL import Image

from agvm_jax.panoptic_png import read_panoptic_png, write_panoptic_png
from agvm_jax.structures import Batch, Predictions


def test_panoptic_files_keep_every_id(tmp_path):
    ids = np.array([[0, 1, 255, 256], [65535, 65536, 8195143, (1 << 24) - 1]])
    write_panoptic_png(tmp_path / "a.png", ids)
    np.testing.assert_array_equal(read_panoptic_png(tmp_path / "a.png"), ids)
    for bad in (-1, 1 << 24):
        with pytest.raises(ValueError, match="three bytes"):
            write_panoptic_png(tmp_path / "b.png", np.array([[bad]]))


def test_a_file_that_holds_no_panoptic_map_is_named(tmp_path):
    path = tmp_path / "a b.png"
    with pytest.raises(ValueError, match="a b.png cannot be read"):
        read_panoptic_png(path)
    write_panoptic_png(path, np.arange(900).reshape(30, 30))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match="a b.png cannot be read"):
        read_panoptic_png(path)
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(path)
    with pytest.raises(ValueError, match="a b.png is a L image"):
        read_panoptic_png(path)


@pytest.mark.parametrize(
    ("names", "written"),
    [
        (("b/1.png", "../a/zwölf.jpg"), ["1.png", "zwölf.png"]),
        (("b/1.png", "a/1.png"), ["10.png", "11.png"]),
    ],
)
def test_predictions_have_names_of_their_own_in_the_folder(names, written, tmp_path):
    truth, truths, found = make_set(np.random.default_rng(0), images=2)
    for annotation, name in zip(truth["annotations"], names, strict=True):
        truths[name] = truths.pop(annotation["file_name"])
        annotation["file_name"] = name
    evaluator = evaluator_of(truth, truths, save_to=tmp_path / "maps" / "here")
    for image_id, one in found.items():
        evaluator.add_map(image_id, *one)
    folder = tmp_path / "maps" / "here"
    assert sorted(path.name for path in folder.iterdir()) == written
    assert [path.name for path in (tmp_path / "maps").iterdir()] == ["here"]
    for annotation in evaluator.annotations()["annotations"]:
        guess, _ = found[annotation["image_id"]]
        saved = read_panoptic_png(folder / annotation["file_name"])
        np.testing.assert_array_equal(saved, guess)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.pop("categories"), "no 'categories'"),
        (lambda t: t["categories"].pop(), r"no category \[77\]"),
        (lambda t: t["annotations"].append(t["annotations"][0]), "two annotations"),
        (
            lambda t: t["annotations"][0]["segments_info"][0].update(category_id=5),
            "unknown category 5",
        ),
    ],
)
def test_a_broken_ground_truth_is_one_sentence(damage, message):
    truth, truths, _ = make_set(np.random.default_rng(0))
    truth = copy.deepcopy(truth)
    damage(truth)
    with pytest.raises(ValueError, match=message):
        evaluator_of(truth, truths)


def test_unknown_images_and_categories_and_missing_outputs_are_named():
    truth, truths, found = make_set(np.random.default_rng(0))
    evaluator = evaluator_of(truth, truths)
    with pytest.raises(ValueError, match="image 5 is not in the ground truth"):
        evaluator.add_map(5, np.zeros((24, 24), int), [])
    image_id, (guess, listed) = next(iter(found.items()))
    strange = [one | {"category_id": 55} for one in listed]
    with pytest.raises(ValueError, match=rf"image {image_id}: unknown categories \[55"):
        evaluator.add_map(image_id, guess, strange)
    with pytest.raises(ValueError, match=f"image {image_id}: a panoptic map of size"):
        evaluator.add_map(image_id, guess[:5], listed)
    assert evaluator.num_images == 0
    with pytest.raises(ValueError, match="needs masks and semantic"):
        evaluator.add(
            Batch(*[None] * 7), Predictions(*[np.zeros((1, 1))] * 4, semantic=guess)
        )
