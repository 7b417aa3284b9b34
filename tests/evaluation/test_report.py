"""The files that are written after an evaluation."""

import json

import numpy as np
import pytest
from PIL import Image
from random_sets import evaluator_of, make_batches, make_set

from agvm_jax.evaluation import report
from agvm_jax.evaluation.diagnosis import diagnose
from agvm_jax.evaluation.figures import plot_confusion
from agvm_jax.evaluation.report import write_report

ALWAYS = [
    "results.json", "table.txt", "detections.json",
    "precision_recall.png", "confusion.png", "mistakes.png",
]  # fmt: skip


def evaluated(**options):
    truth, category_ids, found = make_set(np.random.default_rng(0), **options)
    evaluator = evaluator_of(truth, category_ids)
    for batch, predictions in make_batches(truth, found):
        evaluator.add(batch, predictions)
    return evaluator


def test_numbers_tables_figures_and_pictures_are_written(tmp_path):
    evaluator = evaluated()
    asked = []

    def load_image(image_id):
        asked.append(image_id)
        return np.full((*evaluator.ground_truth.sizes[image_id], 3), 99, np.uint8)

    folder = tmp_path / "eval" / "last"
    paths = write_report(evaluator, folder, load_image, pictures=3)
    assert [p.name for p in paths] == [*ALWAYS, "best.png", "worst.png"]
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in paths)
    # Three best, best first, and three others, worst first.
    ranking = diagnose(evaluator).ranking().tolist()
    assert asked == [*ranking[:3], *ranking[:-4:-1]]
    for path in paths:
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert min(image.size) > 200
    results = json.loads((folder / "results.json").read_text())
    assert results["numbers"] == evaluator.compute()
    assert [c["name"] for c in results["classes"]] == list(evaluator.class_names)
    assert results["images"] == 12
    saved = json.loads((folder / "detections.json").read_text())
    assert saved == evaluator.detections()
    assert (folder / "table.txt").read_text().startswith(evaluator.table())
    assert write_report(evaluator, folder, load_image, pictures=3) == paths


def test_true_boxes_are_drawn_dashed_and_crowds_dotted(tmp_path, monkeypatch):
    evaluator = evaluated()
    truth = evaluator.ground_truth
    drawn = {}

    def draw(image, boxes, classes, scores, names, ground_truth, *, crowds, **_):
        drawn[image[0, 0, 0]] = ground_truth, crowds
        return image

    monkeypatch.setattr(report, "draw_detections", draw)
    order = sorted(truth.sizes)
    write_report(
        evaluator, tmp_path, lambda i: np.full((9, 9, 3), order.index(i), np.uint8)
    )
    dashed = dotted = 0
    for place, (ground_truth, crowds) in drawn.items():
        mine = truth.image_ids == order[place]
        for found, wanted in (
            (ground_truth, mine & ~truth.crowd),
            (crowds, mine & truth.crowd),
        ):
            x, y, w, h = truth.boxes[wanted].T
            expected = np.stack([x, y, x + w, y + h], axis=1)
            np.testing.assert_array_equal(found, expected)
        dashed, dotted = dashed + len(ground_truth), dotted + len(crowds)
    assert dashed > 9 and dotted > 1


def test_few_images_are_not_shown_as_both_best_and_worst(tmp_path):
    evaluator = evaluated(images=5)
    asked = []

    def load_image(image_id):
        asked.append(image_id)
        return np.zeros((64, 64, 3), np.uint8)

    write_report(evaluator, tmp_path, load_image)
    assert len(asked) == len(set(asked)) >= 3


def test_an_evaluation_without_images_or_ground_truth_still_makes_a_report(tmp_path):
    evaluator = evaluated()
    evaluator.reset()
    paths = write_report(evaluator, tmp_path, lambda image_id: None)
    assert [p.name for p in paths] == ALWAYS
    none = evaluated(images=1, max_objects=1)
    assert set(none.compute().values()) == {-1.0}
    assert [p.name for p in write_report(none, tmp_path)] == ALWAYS


@pytest.mark.parametrize("classes", [1, 16, 30])
def test_confusion_matrices_of_any_size_are_drawn_without_a_warning(tmp_path, classes):
    names = [f"class {k}" for k in range(classes)]
    counts = np.random.default_rng(0).integers(0, 9, (classes + 1, classes + 1))
    plot_confusion(counts, names, tmp_path / "confusion.png")
    with Image.open(tmp_path / "confusion.png") as image:
        assert image.size[0] > 500
