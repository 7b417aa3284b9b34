"""The files that are written after an evaluation."""

import functools
import json

import numpy as np
import pytest
from PIL import Image
from random_sets import evaluator_of, make_batches, make_set

from agvm_jax.evaluation.metrics.diagnosis import KINDS, diagnose
from agvm_jax.evaluation.reports import detection as report
from agvm_jax.evaluation.reports import figures
from agvm_jax.evaluation.reports.detection import write_detection_report

ALWAYS = [
    "results.json", "table.txt", "detections.json",
    "precision_recall.png", "confusion.png", "mistakes.png",
]  # fmt: skip


@functools.cache
def evaluated(**options):
    truth, category_ids, found = make_set(np.random.default_rng(0), **options)
    evaluator = evaluator_of(truth, category_ids)
    for batch, predictions in make_batches(truth, found):
        evaluator.add(batch, predictions)
    return evaluator


@pytest.fixture
def no_figures(monkeypatch):
    """For tests of the rest of a report: nothing is drawn into figures."""
    for name in ("plot_confusion", "plot_mistakes", "plot_precision_recall"):
        monkeypatch.setattr(report, name, lambda *_: None)


def test_numbers_tables_figures_and_images_are_written(tmp_path):
    evaluator = evaluated()
    asked = []

    def load_image(image_id):
        asked.append(image_id)
        return np.full((*evaluator.ground_truth.sizes[image_id], 3), 99, np.uint8)

    folder = tmp_path / "eval" / "last"
    paths = write_detection_report(evaluator, folder, load_image, images=2)
    assert [p.name for p in paths] == [*ALWAYS, "best.png", "worst.png"]
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in paths)
    # Two best, best first, and two others, worst first.
    ranking = diagnose(evaluator).ranking().tolist()
    assert asked == [*ranking[:2], *ranking[:-3:-1]]
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


def test_a_second_report_replaces_the_files_of_the_first(tmp_path, no_figures):
    first = write_detection_report(evaluated(), tmp_path)
    empty = evaluator_of(*make_set(np.random.default_rng(1))[:2])
    assert write_detection_report(empty, tmp_path) == first
    assert json.loads((tmp_path / "detections.json").read_text()) == []


def test_of_images_the_true_boxes_the_crowds_and_the_tallies_are_drawn(
    tmp_path, monkeypatch, no_figures
):
    evaluator = evaluated()
    truth = evaluator.ground_truth
    drawn, titled = {}, []

    def draw(image, boxes, classes, scores, names, ground_truth, *, crowds, **options):
        drawn[image[0, 0, 0]] = ground_truth, crowds
        assert options["score_threshold"] == 0.4
        return image

    monkeypatch.setattr(report, "draw_detections", draw)
    monkeypatch.setattr(
        report, "save_contact_sheet", lambda images, path, titles: titled.extend(titles)
    )
    order = sorted(truth.sizes)
    write_detection_report(
        evaluator,
        tmp_path,
        lambda i: np.full((9, 9, 3), order.index(i), np.uint8),
        score_threshold=0.4,
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
    tallies = diagnose(evaluator, 0.4)
    expected = {
        f"{i}: {hits} hit, {wrong} wrong, {lost} missed"
        for i, hits, wrong, lost in zip(
            tallies.image_ids,
            tallies.hits,
            tallies.false_alarms,
            tallies.missed,
            strict=True,
        )
        if hits + wrong + lost
    }
    assert set(titled) == expected and len(titled) == len(drawn)


@pytest.fixture
def drawn(monkeypatch):
    """Figures that would be saved, as matplotlib holds them."""
    kept = []
    monkeypatch.setattr(figures, "save", lambda figure, path: kept.append(figure))
    return kept


def test_an_evaluation_without_ground_truth_still_makes_a_report(tmp_path):
    none = evaluated(images=1, max_objects=1)
    assert set(none.compute().values()) == {-1.0}
    paths = write_detection_report(none, tmp_path, lambda image_id: None)
    assert [p.name for p in paths] == ALWAYS
    assert all(path.is_file() for path in paths)


def test_an_evaluation_without_images_still_makes_a_report(tmp_path, drawn):
    empty = evaluator_of(*make_set(np.random.default_rng(0))[:2])
    paths = write_detection_report(empty, tmp_path, lambda image_id: None)
    assert [p.name for p in paths] == ALWAYS
    assert len(drawn) == 3


def labels(axes):
    return axes.get_legend_handles_labels()[1]


def test_precision_over_recall_is_what_ap_is_the_mean_of(drawn):
    evaluator = evaluated()
    figures.plot_precision_recall(
        evaluator.result(), evaluator.class_names, evaluator.columns, "x.png"
    )
    left, right = drawn[0].axes
    numbers = evaluator.compute()
    means = [100 * line.get_ydata().mean() for line in left.lines]
    assert means[:2] == pytest.approx([100 * numbers["AP50"], 100 * numbers["AP75"]])
    assert labels(left)[0] == f"overlap 0.5: AP {means[0]:.1f}"
    expected = [
        f"{name}: {100 * ap50:.1f}"
        for name, _, ap50, _ in evaluator.per_class()
        if ap50 >= 0
    ]
    assert labels(right) == expected and len(expected) == 3
    np.testing.assert_allclose(right.lines[0].get_xdata(), np.linspace(0, 1, 101))


def test_a_cell_of_the_confusion_is_the_share_of_its_row(drawn):
    counts = np.array([[3, 1, 0], [0, 0, 2], [5, 0, 0]])
    figures.plot_confusion(counts, ["cat", "dog"], "x.png")
    (axes,) = drawn[0].axes
    shares = np.array([[0.75, 0.25, 0], [0, 0, 1], [1, 0, 0]])
    np.testing.assert_allclose(axes.images[0].get_array(), shares)
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "75", (1, 0): "25", (2, 1): "100", (0, 2): "100"}
    rows = [label.get_text() for label in axes.get_yticklabels()]
    assert rows == ["cat (4)", "dog (2)", "none (5)"]
    for classes, numbers in ((16, 17 * 17), (17, 0)):  # more would be illegible
        ones = np.ones((classes + 1, classes + 1), int)
        figures.plot_confusion(ones, ["a"] * classes, "x.png")
        assert len(drawn[-1].axes[0].texts) == numbers


def test_mistakes_are_bars_of_points_and_of_counts(drawn):
    diagnosis = diagnose(evaluated())
    figures.plot_mistakes(diagnosis, "x.png")
    left, right = drawn[0].axes
    gains = [bar.get_width() for bar in left.patches]
    assert gains == pytest.approx([100 * diagnosis.gains[kind] for kind in KINDS])
    counts = [bar.get_width() for bar in right.patches]
    assert counts == [diagnosis.counts[kind] for kind in KINDS]
    names = [label.get_text() for label in left.get_yticklabels()]
    assert names == list(KINDS)


@pytest.mark.parametrize("classes", [1, 30])
def test_confusion_matrices_of_any_size_are_drawn_without_a_warning(tmp_path, classes):
    names = [f"class {k}" for k in range(classes)]
    counts = np.random.default_rng(0).integers(0, 9, (classes + 1, classes + 1))
    figures.plot_confusion(counts, names, tmp_path / "confusion.png")
    with Image.open(tmp_path / "confusion.png") as image:
        assert image.size[0] > 500
