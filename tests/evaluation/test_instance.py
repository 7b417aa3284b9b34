"""Mask AP against pycocotools, and by hand."""

import contextlib
import copy
import io
import json

import cv2
import numpy as np
import pytest
from mask_sets import make_batches, make_truth
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from agvm_jax.evaluation.instance import InstanceEvaluator
from agvm_jax.evaluation.reports import detection as report
from agvm_jax.mask_pasting import encode_mask, paste_mask
from agvm_jax.structures import Batch, Predictions


def run_pycocotools(truth, detections):
    with contextlib.redirect_stdout(io.StringIO()):
        index = COCO()
        index.dataset = copy.deepcopy({"info": {}, **truth})
        index.createIndex()
        result = COCOeval(index, index.loadRes(copy.deepcopy(detections)), "segm")
        result.evaluate()
        result.accumulate()
        result.summarize()
    return result


@pytest.mark.parametrize("seed", range(3))
def test_mask_numbers_and_arrays_are_those_of_pycocotools(seed):
    rng = np.random.default_rng(seed)
    truth = make_truth(rng)
    evaluator = InstanceEvaluator(truth, (4, 2), ("four", "two"))
    for batch, predictions in make_batches(rng, truth):
        evaluator.add(batch, predictions)
    detections = json.loads(json.dumps(evaluator.detections()))
    for one in detections:
        del one["bbox"]  # so that areas are those of the masks
    theirs = run_pycocotools(truth, detections)
    numbers = evaluator.compute()
    ours = [value for name, value in numbers.items() if name.startswith("mask_")]
    np.testing.assert_array_equal(ours, theirs.stats)
    for name in ("precision", "recall", "scores"):
        np.testing.assert_array_equal(
            evaluator.mask_result().eval[name], theirs.eval[name]
        )
    assert 0.05 < numbers["mask_AP50"] < 0.95
    assert numbers["mask_AP"] != numbers["AP"]


def square_truth():
    square = [10, 10, 30, 10, 30, 30, 10, 30]
    return {
        "images": [{"id": 1, "height": 40, "width": 40}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "bbox": [10, 10, 20, 20],
                "segmentation": [square],
            }
        ],
        "categories": [{"id": 1}],
    }


def add_square(evaluator, mask):
    evaluator.add(
        Batch(None, np.array([[80, 80]]), np.array([1]), *[None] * 4),
        Predictions(
            np.array([[[20.0, 20, 60, 60]]]),  # the input was twice the original
            np.array([[0.9]]),
            np.array([[0]]),
            np.array([[True]]),
            np.asarray(mask, np.float32)[None, None],
        ),
    )


def test_a_right_box_with_half_a_mask_scores_one_for_boxes_and_less_for_masks():
    evaluator = InstanceEvaluator(square_truth(), (1,), ("square",))
    add_square(evaluator, np.ones((10, 10)))
    assert evaluator.compute()["AP"] == pytest.approx(1.0)
    assert evaluator.compute()["mask_AP"] == pytest.approx(1.0)
    evaluator.reset()
    mask = np.zeros((10, 10))
    mask[:, :6] = 1  # 12 of 20 columns: an overlap of 0.6
    add_square(evaluator, mask)
    assert evaluator.compute()["AP"] == pytest.approx(1.0)
    assert evaluator.compute()["mask_AP"] == pytest.approx(0.3)
    assert evaluator.per_class() == [
        ("square", pytest.approx(1.0), pytest.approx(1), 1)
    ]
    assert evaluator.mask_per_class()[0][1] == pytest.approx(0.3)
    rows = [line.split() for line in evaluator.table().splitlines()]
    assert ["square", "100.0", "100.0", "1"] in rows
    assert ["square", "30.0", "100.0", "1"] in rows


def test_saved_masks_are_those_that_were_pasted():
    evaluator = InstanceEvaluator(square_truth(), (1,), ("square",))
    mask = np.random.default_rng(0).random((10, 10)).astype(np.float32)
    add_square(evaluator, mask)
    (one,) = evaluator.detections()
    pasted = paste_mask(mask, np.array([10, 10, 30, 30]), 40, 40)
    expected = {"size": [40, 40], "counts": encode_mask(pasted).decode()}
    assert one["segmentation"] == expected


def test_best_and_worst_images_are_drawn_with_their_masks(tmp_path, monkeypatch):
    for name in ("plot_confusion", "plot_mistakes", "plot_precision_recall"):
        monkeypatch.setattr(report, name, lambda *_: None)
    evaluator = InstanceEvaluator(square_truth(), (1,), ("square",))
    mask = np.zeros((10, 10))
    mask[:5] = 1
    add_square(evaluator, mask)
    (region,) = evaluator.regions(np.array([0]))
    assert region.shape == (40, 40) and region[10:20, 10:30].all()
    assert region.sum() == 10 * 20
    report.write_detection_report(
        evaluator, tmp_path, lambda _: np.full((40, 40, 3), 99, np.uint8)
    )
    sheet = cv2.imread(str(tmp_path / "best.png"))
    # The picture is drawn in a cell of 480 pixels that ends 12 above the sheet's end.
    picture = sheet[-492:-12, 12:492]
    assert (picture[340, 240] == 99).all()  # in the box, not in the mask
    assert (picture[190, 240] != 99).any()


def test_shares_of_two_processes_merge_to_the_same_bits():
    rng = np.random.default_rng(8)
    truth = make_truth(rng, images=8)
    batches = list(make_batches(rng, truth, batch_size=2))
    whole, *parts = (
        InstanceEvaluator(truth, (4, 2), ("four", "two")) for _ in range(3)
    )
    for k, (batch, predictions) in enumerate(batches):
        whole.add(batch, predictions)
        parts[k % 2].add(batch, predictions)
    merged = parts[0]
    merged.merge([part.state() for part in reversed(parts)])
    assert merged.compute() == whole.compute()
    assert merged.detections() == whole.detections()
    assert merged.state() == whole.state()
    merged.reset()
    assert merged.compute()["mask_AP"] == 0.0


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "no object of the ground truth has a segmentation"),
        ([], "no object of the ground truth has a segmentation"),
        ([[1, 2, 3, 4]], "no object of the ground truth has a segmentation"),
        ([[1, 2, 3, 4, 5, 6, 7]], "a polygon of 7 numbers"),
        ({"size": [40, 41], "counts": "x"}, r"RLE of size \[40, 41\]"),
        ({"size": [40, 40]}, "annotation 1: an RLE"),
    ],
)
def test_a_broken_segmentation_is_one_sentence(segmentation, message):
    truth = square_truth()
    truth["annotations"][0]["segmentation"] = segmentation
    with pytest.raises(ValueError, match=message):
        InstanceEvaluator(truth, (1,), ("square",))


def test_objects_without_a_mask_are_left_out_of_mask_ap_and_counted():
    truth = square_truth()
    (square,) = truth["annotations"]
    truth["annotations"] += [
        # A box without area, which readers drop and pycocotools counts as missed.
        {**square, "id": 2, "bbox": [3, 3, 0, 4], "segmentation": []},
        # A polygon that is none: in its box a detection is neither right nor wrong.
        {**square, "id": 3, "bbox": [0, 30, 8, 8], "segmentation": [[0, 30, 8, 38]]},
        # One of two polygons is none: the other is the mask.
        {
            **square,
            "id": 4,
            "bbox": [32, 32, 6, 6],
            "segmentation": [[32, 32, 38, 32, 38, 38, 32, 38], [32, 32, 38, 38]],
        },
    ]
    evaluator = InstanceEvaluator(truth, (1,), ("square",))
    boxes = np.array([[[0.0, 30, 8, 38], [10, 10, 30, 30], [32, 32, 38, 38]]])
    evaluator.add(
        Batch(None, np.array([[40, 40]]), np.array([1]), *[None] * 4),
        Predictions(
            boxes,
            np.array([[0.9, 0.8, 0.7]]),
            np.zeros((1, 3), int),
            np.ones((1, 3), bool),
            np.ones((1, 3, 5, 5), np.float32),
        ),
    )
    numbers = evaluator.compute()
    assert numbers["mask_AP"] == pytest.approx(1.0)
    assert evaluator.mask_per_class()[0][3] == 2
    assert numbers["AR100"] == pytest.approx(3 / 4)  # of four boxes one is flat
    table = evaluator.table()
    assert "True boxes without area, which nothing can match: 1" in table
    assert "Objects without a mask, left out of mask AP: 2" in table
    assert "True polygons of fewer than three points left out: 2" in table


def test_masks_stay_with_their_boxes_and_numbers_follow_what_is_added():
    truth = square_truth()
    truth["images"].append({**truth["images"][0], "id": 2})
    truth["annotations"].append({**truth["annotations"][0], "image_id": 2})
    evaluator = InstanceEvaluator(truth, (1,), ("square",))
    add_square(evaluator, np.ones((10, 10)))
    assert evaluator.compute()["mask_AR100"] == 0.5
    masks = np.zeros((1, 2, 10, 10), np.float32)
    masks[0, 1] = 1  # that of the first box, which is not finite, is empty
    evaluator.add(
        Batch(None, np.array([[40, 40]]), np.array([2]), *[None] * 4),
        Predictions(
            np.array([[[np.nan, 10, 30, 30], [10, 10, 30, 30]]]),
            np.array([[0.9, 0.8]]),
            np.zeros((1, 2), int),
            np.ones((1, 2), bool),
            masks,
        ),
    )
    assert evaluator.compute()["mask_AR100"] == 1.0


def test_an_image_of_unknown_size_was_never_seen_and_its_objects_are_missed():
    truth = square_truth()
    truth["images"].append({"id": 2, "height": 0, "width": 0})
    (square,) = truth["annotations"]
    masks = [square["segmentation"], {"size": [9, 9], "counts": [1, 80]}, None]
    truth["annotations"] += [
        {**square, "id": k, "image_id": 2, "segmentation": mask}
        for k, mask in enumerate(masks, 2)
    ]
    evaluator = InstanceEvaluator(truth, (1,), ("square",))
    add_square(evaluator, np.ones((10, 10)))
    assert evaluator.compute()["mask_AR100"] == pytest.approx(1 / 3)
    assert evaluator.compute()["AR100"] == pytest.approx(1 / 4)


def test_predictions_without_masks_are_refused():
    evaluator = InstanceEvaluator(square_truth(), (1,), ("square",))
    empty = Predictions(
        np.zeros((1, 1, 4)), np.zeros((1, 1)), np.zeros((1, 1)), np.zeros((1, 1), bool)
    )
    with pytest.raises(ValueError, match="no masks"):
        evaluator.add(Batch(None, np.ones((1, 2)), np.ones(1), *[None] * 4), empty)
