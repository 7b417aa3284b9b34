"""Mean IoU by hand, against a slow oracle and against hotcoco."""

import numpy as np
import pytest
from hotcoco.semantic import METRIC_NAMES, SemanticEval

from agvm_jax.evaluation.metrics.pixel_counts import count_pixels
from agvm_jax.evaluation.semantic import SemanticEvaluator
from agvm_jax.structures import Batch, Predictions

NAMES = ("road", "sky", "tree")


def batch_of(truth, image_ids, size=(4, 6)):
    count = len(image_ids)
    return Batch(
        np.zeros((count, 8, 12, 3), np.uint8),
        np.full((count, 2), size),
        np.array(image_ids),
        *[None] * 4,
        semantic=truth,
    )


def labelled(semantic):
    return Predictions(None, None, None, None, semantic=np.asarray(semantic))


def test_two_classes_worked_out_by_hand():
    truth = np.array([[[0, 0, 1, 1], [0, 1, 1, -1]]])
    found = np.array([[[0, 1, 1, 1], [0, 1, 2, 2]]])
    evaluator = SemanticEvaluator(NAMES, [7])
    evaluator.add(batch_of(truth, [7]), labelled(found))
    # road: 2 of 3 found, none too many. sky: 3 of 4 found, one too many. tree: one.
    assert evaluator.compute() == {
        "mIoU": pytest.approx((2 / 3 + 3 / 5 + 0) / 3),
        "mean_accuracy": pytest.approx((2 / 3 + 3 / 4) / 2),
        "pixel_accuracy": pytest.approx(5 / 7),
    }
    assert evaluator.per_class() == [
        ("road", pytest.approx(2 / 3), pytest.approx(2 / 3), 3),
        ("sky", pytest.approx(3 / 5), pytest.approx(3 / 4), 4),
        ("tree", 0.0, -1.0, 0),
    ]
    rows = [line.split() for line in evaluator.table().splitlines()]
    assert ["road", "66.7", "66.7", "3"] in rows
    assert ["tree", "0.0", "-", "0"] in rows


def test_a_class_that_neither_occurs_nor_is_predicted_is_left_out_of_the_mean():
    evaluator = SemanticEvaluator(NAMES, [1])
    evaluator.add(
        batch_of(np.zeros((1, 2, 2), int), [1]), labelled(np.zeros((1, 2, 2), int))
    )
    assert set(evaluator.compute().values()) == {1.0}
    none = SemanticEvaluator(NAMES, [])
    assert set(none.compute().values()) == {-1.0}


def test_a_pixel_without_a_class_is_wrong_and_an_ignored_one_does_not_count():
    truth = np.array([[0, 0, -1, 255]])
    labels = np.array([[0, -1, 0, 0]])
    counts = count_pixels(truth, labels, 2)
    np.testing.assert_array_equal(counts, [[1, 0, 1], [0, 0, 0]])
    counts = count_pixels(np.array([[0, 1, 1]]), np.array([[2, 255, 1]]), 2)
    np.testing.assert_array_equal(counts, [[0, 0, 1], [0, 1, 1]])


def test_an_image_has_a_score_if_it_has_a_labelled_pixel():
    evaluator = SemanticEvaluator(NAMES, [1, 2])
    truth = np.array([[[0, 0, 1, -1]], [[-1, -1, -1, -1]]])
    evaluator.add(batch_of(truth, [1, 2]), labelled([[[0, 1, 0, 0]]] * 2))
    assert evaluator.image_scores() == {1: pytest.approx(1 / 3)}


@pytest.mark.parametrize("seed", range(3))
def test_counts_and_numbers_are_those_of_an_oracle_and_of_hotcoco(seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(-1, 3, (5, 6, 7))
    found = np.where(
        rng.random(truth.shape) < 0.6, truth.clip(0), rng.integers(0, 3, truth.shape)
    )
    evaluator = SemanticEvaluator(NAMES, [1, 2, 3, 4])
    evaluator.add(batch_of(truth[:2], [1, 2]), labelled(found[:2]))
    evaluator.add(batch_of(truth[2:], [3, 4, -1]), labelled(found[2:]))
    expected = np.zeros((3, 4), int)
    for t, f in zip(truth[:4].ravel(), found[:4].ravel(), strict=True):
        if t >= 0:
            expected[t, f] += 1
    np.testing.assert_array_equal(evaluator.counts, expected)
    assert evaluator.num_images == 4

    theirs = SemanticEval(list(NAMES), ignore_index=255)
    for t, f in zip(truth[:4], found[:4], strict=True):
        theirs.update(np.where(t < 0, 255, t).astype(np.uint8), f.astype(np.uint8))
    expected = [theirs.stats[METRIC_NAMES.index(n)] for n in ("mIoU", "mAcc", "aAcc")]
    assert list(evaluator.compute().values()) == pytest.approx(expected, abs=1e-12)


def test_original_labels_are_compared_where_they_can_be_loaded():
    truth = {5: np.kron([[0, 1], [1, 0]], np.ones((10, 10), int))}
    evaluator = SemanticEvaluator(NAMES, [5], load_label=truth.__getitem__)
    labels = np.full((1, 4, 6), 2)
    labels[0, :2, :2] = [[0, 1], [1, 1]]
    batch = batch_of(None, [5], size=(4, 4))  # the image is 4 x 4 of the 8 x 12 input
    evaluator.add(batch, labelled(labels))
    np.testing.assert_array_equal(
        evaluator.counts, [[100, 100, 0, 0], [0, 200, 0, 0], [0, 0, 0, 0]]
    )


def test_an_image_that_was_never_added_counts_as_wrong_in_every_labelled_pixel():
    truth = {
        7: np.array([[0, 0, 1, 1]]),
        8: np.array([[0, 2, 2, -1]]),  # its file cannot be read
    }
    evaluator = SemanticEvaluator(NAMES, truth, truth.__getitem__)
    batch = Batch(
        np.zeros((2, 1, 4, 3), np.uint8),
        np.array([[1, 4], [1, 4]]),
        np.array([7, -1]),
        *[None] * 4,
    )
    evaluator.add(batch, labelled([truth[7], truth[8]]))
    for _ in range(2):  # reading the numbers leaves them as they are
        assert evaluator.compute() == {
            "mIoU": pytest.approx((2 / 3 + 1 + 0) / 3),
            "mean_accuracy": pytest.approx((2 / 3 + 1 + 0) / 3),
            "pixel_accuracy": pytest.approx(4 / 7),
        }
    np.testing.assert_array_equal(
        evaluator.counts, [[2, 0, 0, 1], [0, 2, 0, 0], [0, 0, 0, 2]]
    )
    assert "counted as empty: 1" in evaluator.table()
    merged = SemanticEvaluator(NAMES, truth, truth.__getitem__)
    merged.merge([evaluator.state()])
    assert merged.compute() == evaluator.compute()
    batch.image_id[:] = -1, 8
    evaluator.add(batch, labelled([truth[7], truth[8]]))
    assert set(evaluator.compute().values()) == {1.0}
    assert "counted as empty" not in evaluator.table()


def test_without_the_labels_of_a_missing_image_there_are_no_numbers():
    evaluator = SemanticEvaluator(NAMES, [7, 9, 8])
    evaluator.add(batch_of(np.zeros((1, 2, 2), int), [7]), labelled([[[0, 0]] * 2]))
    with pytest.raises(ValueError, match=r"2 of the 3 images .* image 9: .*load_label"):
        evaluator.compute()
    with pytest.raises(ValueError, match="load_label"):
        evaluator.table()


def test_shares_of_two_processes_merge_to_the_same_bits():
    rng = np.random.default_rng(4)
    truth, found = rng.integers(0, 3, (2, 4, 5, 5))
    whole, left, right = (SemanticEvaluator(NAMES, range(4)) for _ in range(3))
    for k in range(4):
        batch = batch_of(truth[k : k + 1], [k])
        whole.add(batch, labelled(found[k : k + 1]))
        (left if k % 2 else right).add(batch, labelled(found[k : k + 1]))
    states = [right.state(), left.state()]
    left.merge(states)
    assert left.compute() == whole.compute()
    assert left.state() == whole.state()
    with pytest.raises(ValueError, match="image 0 was added twice"):
        left.merge([states[0], states[0]])


@pytest.mark.parametrize("classes", [255, 256])
def test_saved_labels_tell_the_last_class_from_none(classes, tmp_path):
    names = [str(k) for k in range(classes)]
    evaluator = SemanticEvaluator(names, [4], save_to=tmp_path)
    found = np.array([[[classes - 1, -1, 0]]], np.int16)
    evaluator.add(batch_of(np.zeros((1, 1, 3), int), [4]), labelled(found))
    last, none, first = evaluator.found(4)[0].tolist()
    assert (last, first) == (classes - 1, 0) and none >= classes


def test_missing_maps_other_sizes_and_repeated_images_are_refused():
    evaluator = SemanticEvaluator(NAMES, [1])
    truth = np.zeros((1, 2, 2), int)
    with pytest.raises(ValueError, match="needs `semantic`"):
        evaluator.add(batch_of(truth, [1]), Predictions(None, None, None, None))
    with pytest.raises(ValueError, match="needs `semantic`"):
        evaluator.add(batch_of(None, [1]), labelled(truth))
    with pytest.raises(ValueError, match=r"\(4, 2\) against a truth of size \(2, 2\)"):
        evaluator.add(batch_of(truth, [1]), labelled(np.zeros((1, 4, 2), int)))
    evaluator.add(batch_of(truth, [1]), labelled(truth))
    with pytest.raises(ValueError, match="image 1 was added twice"):
        evaluator.add(batch_of(truth, [1]), labelled(truth))
    with pytest.raises(ValueError, match="image 2 is not in the ground truth"):
        evaluator.add(batch_of(truth, [2]), labelled(truth))
    with pytest.raises(ValueError, match="must not be empty"):
        SemanticEvaluator((), [1])
