"""Box AP against pycocotools, and against cases that can be worked out by hand."""

import contextlib
import copy
import io
import json

import numpy as np
import pytest
from one_image import add_found, one_image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from random_sets import evaluator_of, make_batches, make_set

from agvm_jax.evaluation.detection import DetectionEvaluator
from agvm_jax.structures import Batch, Predictions

NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl"]
NAMES += ["AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]


def run_pycocotools(truth, detections, max_detections=(1, 10, 100)):
    with contextlib.redirect_stdout(io.StringIO()):
        truth_index = COCO()
        truth_index.dataset = copy.deepcopy({"info": {}, **truth})
        truth_index.createIndex()
        result = COCOeval(truth_index, truth_index.loadRes(detections), "bbox")
        result.params.maxDets = list(max_detections)
        result.evaluate()
        result.accumulate()
        if max_detections == (1, 10, 100):
            result.summarize()
    return result


@pytest.mark.parametrize("seed", range(6))
def test_the_twelve_numbers_and_both_arrays_are_those_of_pycocotools(seed):
    rng = np.random.default_rng(seed)
    truth, category_ids, found = make_set(rng, ties=seed % 2 == 1)
    if seed == 5:  # boxes without area count as missed
        for annotation in truth["annotations"][::4]:
            annotation["bbox"][2 + annotation["id"] % 2] = 0.0
    evaluator = evaluator_of(truth, category_ids)
    for batch, predictions in make_batches(truth, found):
        evaluator.add(batch, predictions)
    numbers = evaluator.compute()
    theirs = run_pycocotools(truth, evaluator.detections())

    assert list(numbers) == NAMES
    np.testing.assert_array_equal(list(numbers.values()), theirs.stats)
    for name in ("precision", "recall", "scores"):
        np.testing.assert_array_equal(evaluator.result().eval[name], theirs.eval[name])
    assert 0.1 < numbers["AP"] < 0.9  # the case is neither trivial nor hopeless


def test_other_numbers_of_detections_give_pycocotools_recall_there():
    truth, category_ids, found = make_set(np.random.default_rng(7), max_found=15)
    evaluator = evaluator_of(truth, category_ids, max_detections=(1, 3, 5))
    for batch, predictions in make_batches(truth, found):
        evaluator.add(batch, predictions)
    numbers = evaluator.compute()
    theirs = run_pycocotools(truth, evaluator.detections(), (1, 3, 5))
    precision, recall = theirs.eval["precision"], theirs.eval["recall"]
    assert numbers["AP"] == np.mean(precision[..., 0, 2][precision[..., 0, 2] > -1])
    for i, name in enumerate(("AR1", "AR3", "AR5")):
        assert numbers[name] == np.mean(recall[..., 0, i][recall[..., 0, i] > -1])
    assert numbers["AR1"] < numbers["AR3"] < numbers["AR5"]


def test_per_class_numbers_are_pycocotools_for_that_class_alone():
    truth, category_ids, found = make_set(np.random.default_rng(11))
    evaluator = evaluator_of(truth, category_ids)
    for batch, predictions in make_batches(truth, found):
        evaluator.add(batch, predictions)
    detections = evaluator.detections()
    for (name, ap, ap50, count), category in zip(
        evaluator.per_class(), category_ids, strict=True
    ):
        alone = dict(truth)
        alone["categories"] = [c for c in truth["categories"] if c["id"] == category]
        alone["annotations"] = [
            a for a in truth["annotations"] if a["category_id"] == category
        ]
        mine = [d for d in detections if d["category_id"] == category]
        theirs = run_pycocotools(alone, mine).stats
        assert (name, ap, ap50) == (f"c{category}", theirs[0], theirs[1])
        assert count == sum(not a["iscrowd"] for a in alone["annotations"])
    assert evaluator.per_class()[-1][1:] == (-1.0, -1.0, 0)  # the absent class


def test_pixels_of_the_padded_input_become_pixels_of_the_original():
    truth, category_ids, found = make_set(np.random.default_rng(3))
    plain, shrunk = (evaluator_of(truth, category_ids) for _ in range(2))
    for batch, predictions in make_batches(truth, found):
        plain.add(batch, predictions)
    for batch, predictions in make_batches(truth, found, shrink=2):
        shrunk.add(batch, predictions)
    assert plain.detections() == shrunk.detections()  # a factor of two is exact

    image = truth["images"][0]
    evaluator = evaluator_of(truth, category_ids)
    evaluator.add(
        Batch(None, np.array([[50, 100]]), np.array([image["id"]]), *[None] * 4),
        Predictions(
            np.array([[[10.0, 5, 90, 45]]]),
            np.array([[0.5]]),
            np.array([[0]]),
            np.array([[True]]),
        ),
    )
    expected = np.array([0.1, 0.1, 0.8, 0.8]) * ([image["width"], image["height"]] * 2)
    np.testing.assert_allclose(evaluator.detections()[0]["bbox"], expected)


def test_perfect_detections_score_one_even_when_the_first_annotation_has_id_zero():
    boxes = [(0, 0, 10, 10), (20, 20, 40, 40), (0, 0, 100, 100)]
    evaluator = DetectionEvaluator(one_image(boxes), (1,), ("thing",))
    add_found(evaluator, boxes, [0.9, 0.8, 0.7])
    numbers = evaluator.compute()
    assert numbers.pop("AR1") == pytest.approx(1 / 3)
    assert list(numbers.values()) == pytest.approx([1.0] * 11)


def test_one_missed_box_of_two_costs_the_recall_points_above_a_half():
    boxes = [(0, 0, 50, 50), (50, 50, 40, 40)]
    evaluator = DetectionEvaluator(one_image(boxes), (1,), ("thing",))
    add_found(evaluator, boxes[:1], [0.9])
    assert evaluator.compute()["AP"] == pytest.approx(51 / 101)
    assert evaluator.compute()["AR100"] == 0.5


def test_a_false_alarm_above_the_only_hit_halves_precision():
    boxes = [(0, 0, 50, 50)]
    evaluator = DetectionEvaluator(one_image(boxes), (1,), ("thing",))
    add_found(evaluator, [(60, 60, 30, 30), *boxes], [0.9, 0.8])
    assert evaluator.compute()["AP"] == pytest.approx(0.5)


def test_a_box_shifted_to_an_overlap_of_two_thirds_counts_up_to_that_threshold():
    evaluator = DetectionEvaluator(one_image([(0, 0, 50, 50)]), (1,), ("thing",))
    add_found(evaluator, [(10, 0, 50, 50)], [0.9])  # 40 / 60 of the union
    numbers = evaluator.compute()
    assert numbers["AP"] == pytest.approx(4 / 10)  # 0.50, 0.55, 0.60, 0.65
    assert (numbers["AP50"], numbers["AP75"]) == (pytest.approx(1.0), 0.0)


def test_sizes_without_ground_truth_are_minus_one_and_no_detections_give_zero():
    evaluator = DetectionEvaluator(one_image([(0, 0, 10, 10)]), (1,), ("thing",))
    numbers = evaluator.compute()
    assert numbers["AP"] == numbers["APs"] == numbers["AR100"] == 0.0
    assert numbers["APm"] == numbers["APl"] == numbers["ARl"] == -1.0
    empty = DetectionEvaluator(one_image([]), (1,), ("thing",))
    assert set(empty.compute().values()) == {-1.0}
    assert empty.detections() == []


def test_detections_inside_a_crowd_are_neither_right_nor_wrong():
    truth = one_image([(0, 0, 50, 50), (50, 50, 50, 50)])
    truth["annotations"][1]["iscrowd"] = 1
    evaluator = DetectionEvaluator(truth, (1,), ("thing",))
    inside = [(60, 60, 10, 10), (75, 75, 20, 20), (0, 0, 50, 50)]
    add_found(evaluator, inside, [0.9, 0.8, 0.7])
    assert evaluator.compute()["AP"] == pytest.approx(1.0)


def test_a_box_without_area_is_missed_and_counted_in_the_table():
    truth = one_image([(0, 0, 50, 50), (9, 9, 0, 5), (9, 9, 5, -5)])
    evaluator = DetectionEvaluator(truth, (1,), ("thing",))
    add_found(evaluator, [(0, 0, 50, 50)], [0.9])
    assert evaluator.compute()["AR100"] == pytest.approx(1 / 3)
    assert "without area, which nothing can match: 2" in evaluator.table()


def test_images_that_were_never_added_count_as_empty():
    truth = one_image([(0, 0, 50, 50)])
    truth["images"].append({"id": 6, "height": 100, "width": 100})
    truth["annotations"].append({**truth["annotations"][0], "id": 1, "image_id": 6})
    evaluator = DetectionEvaluator(truth, (1,), ("thing",))
    add_found(evaluator, [(0, 0, 50, 50)], [0.9])
    assert evaluator.compute()["AR100"] == 0.5
    assert "counted as empty: 1" in evaluator.table()


def test_shares_of_several_processes_merge_to_the_same_bits_in_any_order():
    truth, category_ids, found = make_set(np.random.default_rng(5), ties=True)
    batches = list(make_batches(truth, found, batch_size=3))
    whole = evaluator_of(truth, category_ids)
    for batch, predictions in batches:
        whole.add(batch, predictions)
    states = []
    for share in (batches[1::3], batches[2::3], [], batches[0::3]):
        part = evaluator_of(truth, category_ids)
        for batch, predictions in reversed(share):
            part.add(batch, predictions)
        states.append(part.state())
    merged = evaluator_of(truth, category_ids)
    merged.merge(states)
    assert merged.compute() == whole.compute()
    assert merged.detections() == whole.detections()
    assert merged.state() == whole.state()
    with pytest.raises(ValueError, match="added twice"):
        merged.merge([states[0], states[0]])


def test_saved_detections_give_the_same_numbers_when_read_back():
    truth, category_ids, found = make_set(np.random.default_rng(9))
    evaluator = evaluator_of(truth, category_ids)
    for batch, predictions in make_batches(truth, found):
        evaluator.add(batch, predictions)
    read = json.loads(json.dumps(evaluator.detections()))
    theirs = run_pycocotools(truth, read)
    np.testing.assert_array_equal(list(evaluator.compute().values()), theirs.stats)


def test_reset_forgets_and_computing_twice_or_in_between_changes_nothing():
    truth, category_ids, found = make_set(np.random.default_rng(1))
    evaluator = evaluator_of(truth, category_ids)
    for _ in range(2):
        evaluator.reset()
        assert evaluator.num_images == 0
        for batch, predictions in make_batches(truth, found):
            evaluator.add(batch, predictions)
            evaluator.compute()
        last = evaluator.compute()
        assert last == evaluator.compute()
        assert evaluator.num_images == len(truth["images"])
    expected = run_pycocotools(truth, evaluator.detections()).stats
    np.testing.assert_array_equal(list(last.values()), expected)


def test_detections_that_are_not_finite_are_dropped_and_counted():
    boxes = [(0, 0, 50, 50)]
    evaluator = DetectionEvaluator(one_image(boxes), (1,), ("thing",))
    bad = [(np.nan, 0, 50, 50), (0, 0, np.inf, 50), (0, 0, 50, 50), *boxes]
    add_found(evaluator, bad, [0.99, 0.98, np.nan, 0.5])
    assert evaluator.compute()["AP"] == pytest.approx(1.0)
    assert evaluator.non_finite == 3
    assert "not finite: 3" in evaluator.table()
    merged = DetectionEvaluator(one_image(boxes), (1,), ("thing",))
    merged.merge([evaluator.state()])
    assert merged.table() == evaluator.table()


def test_rows_that_only_fill_a_batch_up_may_stand_anywhere_in_it():
    evaluator = DetectionEvaluator(one_image([(0, 0, 50, 50)]), (1,), ("thing",))
    valid = np.array([[True, True], [False, True], [True, False]])
    boxes = np.tile([[9.0, 9, 20, 20], [0, 0, 50, 50]], (3, 1, 1))
    evaluator.add(
        Batch(None, np.full((3, 2), 100), np.array([-1, 5, -1]), *[None] * 4),
        Predictions(boxes, np.full((3, 2), 0.9), np.zeros((3, 2), int), valid),
    )
    assert [one["bbox"] for one in evaluator.detections()] == [[0, 0, 50, 50]]


def test_the_table_shows_percentages_and_dashes_where_nothing_is_defined():
    truth = one_image([(0, 0, 50, 50)])
    truth["categories"].append({"id": 2, "name": "absent"})
    evaluator = DetectionEvaluator(truth, (1, 2), ("thing", "absent"))
    add_found(evaluator, [(10, 0, 50, 50)], [0.9])
    rows = [line.split() for line in evaluator.table().splitlines()]
    assert ["AP", "AP50", "AP75", "APs", "APm", "APl"] in rows
    assert ["40.0", "100.0", "0.0", "-", "40.0", "-"] in rows
    assert ["thing", "40.0", "100.0", "1"] in rows
    assert ["absent", "-", "-", "0"] in rows


def test_categories_that_are_not_asked_for_are_left_out():
    truth = one_image([(0, 0, 50, 50), (50, 50, 20, 20)])
    truth["categories"].append({"id": 2, "name": "other"})
    truth["annotations"][1]["category_id"] = 2
    evaluator = DetectionEvaluator(truth, (1,), ("thing",))
    add_found(evaluator, [(0, 0, 50, 50)], [0.9])
    assert evaluator.compute()["AP"] == pytest.approx(1.0)
