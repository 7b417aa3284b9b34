"""The files written after an evaluation of labels or of panoptic maps."""

import json

import numpy as np
import pytest
from hotcoco.panoptic import PanopticEval
from panoptic_sets import evaluator_of, make_set
from PIL import Image

from agvm_jax.evaluation.reports import segmentation as segmentation_report
from agvm_jax.evaluation.reports.segmentation import (
    write_panoptic_report,
    write_semantic_report,
)
from agvm_jax.evaluation.semantic import SemanticEvaluator
from agvm_jax.panoptic_png import write_panoptic_png
from agvm_jax.structures import Batch, Predictions

NAMES = ("road", "sky", "tree")


def grey(asked, side=24):
    """A `load_image` that notes which images are asked for."""

    def load(image_id):
        asked.append(image_id)
        return np.full((side, side, 3), 90, np.uint8)

    return load


@pytest.fixture
def no_figures(monkeypatch):
    """For tests of the rest of a report: nothing is drawn into figures."""
    monkeypatch.setattr(segmentation_report, "plot_confusion", lambda *_: None)


def add_labels(evaluator, image_id, wrong, shape=(24, 24)):
    """An image of road, of which a share is called tree and one pixel nothing."""
    truth = np.zeros((1, *shape), np.int32)
    found = truth.copy()
    found[0, : int(wrong * shape[0])] = 2
    found[0, -1, -1] = -1
    evaluator.add(
        Batch(None, None, np.array([image_id]), *[None] * 4, semantic=truth),
        Predictions(*[None] * 4, semantic=found),
    )
    return found[0]


@pytest.fixture
def semantic(tmp_path):
    wrongs = {5: 0.5, 3: 0.0, 8: 1.0, 9: 0.25, 4: 0.75}
    evaluator = SemanticEvaluator(NAMES, wrongs, save_to=tmp_path / "out" / "labels")
    for image_id, wrong in wrongs.items():
        add_labels(evaluator, image_id, wrong)
    return evaluator


def test_of_labels_numbers_confusion_and_images_are_written(semantic, tmp_path):
    asked = []
    folder = tmp_path / "out"
    paths = write_semantic_report(semantic, folder, grey(asked), images=2)
    assert [p.name for p in paths] == [
        "results.json", "table.txt", "confusion.png", "best.png", "worst.png",
    ]  # fmt: skip
    assert asked == [3, 9, 8, 4]  # two best, best first; two worst, worst first
    results = json.loads((folder / "results.json").read_text("utf-8"))
    assert results["numbers"] == semantic.compute()
    assert results["classes"][0]["name"] == "road" and results["images"] == 5
    assert set(results["classes"][0]) == {"name", "IoU", "accuracy", "pixels"}
    assert (folder / "table.txt").read_text() == semantic.table() + "\n"
    for path in paths[2:]:
        with Image.open(path) as image:
            assert min(image.size) > 200


def test_an_image_is_not_among_best_and_worst_both(semantic, tmp_path, no_figures):
    asked = []
    write_semantic_report(semantic, tmp_path / "out", grey(asked))
    assert asked == [3, 9, 5, 8, 4]  # the better half, and the others from the worst


@pytest.mark.parametrize("classes", [3, 300])
def test_saved_labels_come_back_with_no_class_as_the_largest_value(classes, tmp_path):
    names = tuple(f"c{k}" for k in range(classes))
    evaluator = SemanticEvaluator(names, [7], save_to=tmp_path)
    found = add_labels(evaluator, 7, 0.5, shape=(6, 8))
    largest = 255 if classes == 3 else 65535
    expected = np.where(found < 0, largest, found)
    np.testing.assert_array_equal(evaluator.found(7), expected)
    with Image.open(tmp_path / "7.png") as image:
        np.testing.assert_array_equal(np.asarray(image), expected)


def test_an_image_whose_labels_lie_elsewhere_is_not_drawn(
    semantic, tmp_path, no_figures
):
    (tmp_path / "out" / "labels" / "3.png").unlink()
    asked = []
    write_semantic_report(semantic, tmp_path / "out", grey(asked))
    assert sorted(asked) == [4, 5, 8, 9]


def test_without_saved_maps_or_images_nothing_is_drawn(tmp_path, no_figures):
    evaluator = SemanticEvaluator(NAMES, [1])
    add_labels(evaluator, 1, 0.5)
    asked = []
    for load in (None, grey(asked)):
        paths = write_semantic_report(evaluator, tmp_path, load)
        assert len(paths) == 3 and asked == []
    none = SemanticEvaluator(NAMES, [])
    assert len(write_semantic_report(none, tmp_path, grey(asked))) == 3


def test_of_panoptic_maps_the_json_belongs_to_the_pngs(tmp_path):
    truth, truths, found = make_set(np.random.default_rng(3))
    folder = tmp_path / "out"
    evaluator = evaluator_of(truth, truths, save_to=folder / "panoptic")
    for image_id, one in found.items():
        evaluator.add_map(image_id, *one)
    asked = []
    paths = write_panoptic_report(evaluator, folder, grey(asked), images=2)
    assert [p.name for p in paths] == [
        "results.json", "table.txt", "panoptic.json", "best.png", "worst.png",
    ]  # fmt: skip
    scores = evaluator.image_scores()
    order = sorted(scores, key=lambda i: -scores[i])
    assert asked == [*order[:2], *order[:-3:-1]]
    image_id, (ids, listed) = next(iter(found.items()))
    labels = evaluator.found(image_id)
    names = {c["id"]: c["name"] for c in truth["categories"]}
    for one in listed:
        (k,) = np.unique(labels[ids == one["id"]])
        assert evaluator.class_names[k] == names[one["category_id"]]
    assert (labels[ids == 0] == -1).all()

    (tmp_path / "truth").mkdir()
    for name, segments in truths.items():
        write_panoptic_png(tmp_path / "truth" / name, segments)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    theirs = PanopticEval(str(tmp_path / "truth.json"), str(folder / "panoptic.json"))
    theirs.evaluate()
    results = json.loads((folder / "results.json").read_text())
    assert results["numbers"]["PQ"] == pytest.approx(theirs.stats[0], abs=1e-12)
    assert [c["name"] for c in results["classes"]] == list(evaluator.class_names)
    assert set(results["classes"][0]) == {"name", "PQ", "SQ", "RQ", "segments"}
