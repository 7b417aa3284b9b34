"""LVIS' rules against a slow version, and by hand."""

import hotcoco
import numpy as np
import pytest
from lvis_sets import federate, slow_lvis
from random_sets import evaluator_of, make_batches, make_set

from agvm_jax.evaluation.detection import DetectionEvaluator
from agvm_jax.evaluation.instance import InstanceEvaluator
from agvm_jax.evaluation.metrics.diagnosis import KINDS, diagnose
from agvm_jax.structures import Batch, Predictions

NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"]


def make_lvis(seed, **options):
    rng = np.random.default_rng(seed)
    truth, category_ids, found = make_set(rng, images=8, classes=6, **options)
    for annotation in truth["annotations"][::7]:
        annotation["area"] = 0.0
    federate(rng, truth)
    return truth, category_ids, found


def box_overlap(one, other):
    (x, y, w, h), (a, b, c, d) = one["bbox"], other["bbox"]
    shared = max(min(x + w, a + c) - max(x, a), 0) * max(
        min(y + h, b + d) - max(y, b), 0
    )
    return shared / (w * h + c * d - shared)


@pytest.mark.parametrize("seed", range(3))
def test_box_numbers_are_those_of_a_slow_evaluation(seed):
    truth, category_ids, found = make_lvis(seed, ties=seed == 1)
    most = (5, 300)[seed % 2]
    evaluator = evaluator_of(truth, category_ids, max_detections=(1, most))
    for batch, predictions in make_batches(truth, found):
        evaluator.add(batch, predictions)
    detections = evaluator.detections()
    for one in detections:
        one["area"] = one["bbox"][2] * one["bbox"][3]
    numbers = evaluator.compute()
    assert list(numbers) == [*NAMES, f"AR{most}", "ARs", "ARm", "ARl"]
    expected = slow_lvis(truth, detections, box_overlap, most)
    assert numbers == pytest.approx(expected, abs=1e-12)
    assert 0.05 < numbers["AP"] < 0.9
    # The rules of COCO give something else.
    coco = evaluator_of(truth, category_ids, protocol="coco")
    coco.merge([evaluator.state()])
    assert coco.compute()["AP"] != numbers["AP"]
    assert coco.max_detections == (1, 10, 100)


def test_mask_numbers_are_those_of_a_slow_evaluation():
    truth, category_ids, found = make_lvis(4)
    rng = np.random.default_rng(0)
    for annotation in truth["annotations"]:
        x, y, w, h = annotation["bbox"]
        polygon = [x, y, x + w, y, x + w, y + h, x + w / 3, y + h / 2]
        annotation["segmentation"] = [polygon]
    evaluator = InstanceEvaluator(truth, category_ids, ["name"] * 6)
    assert evaluator.max_detections == (300,)
    for batch, predictions in make_batches(truth, found):
        shape = (*predictions.valid.shape, 6, 6)
        masks = np.triu(np.ones((6, 6))) * (rng.random(shape) < 0.95)
        evaluator.add(
            batch,
            Predictions(
                predictions.boxes,
                predictions.scores,
                predictions.classes,
                predictions.valid,
                masks,
            ),
        )
    sizes = {i["id"]: (i["height"], i["width"]) for i in truth["images"]}
    pixels = {}

    def mask_of(one):
        if id(one) not in pixels:
            rle = one["segmentation"]
            if isinstance(rle, list):
                height, width = sizes[one["image_id"]]
                rle = hotcoco.mask.fr_poly(rle[0], height, width)
            pixels[id(one)] = hotcoco.mask.decode(rle).astype(bool)
        return pixels[id(one)]

    def overlap(one, other):
        shared = np.count_nonzero(mask_of(one) & mask_of(other))
        return shared / max(np.count_nonzero(mask_of(one) | mask_of(other)), 1)

    detections = evaluator.detections()
    for one in detections:
        one["area"] = np.count_nonzero(mask_of(one))
    numbers = evaluator.compute()
    expected = slow_lvis(truth, detections, overlap)
    ours = {name: numbers[f"mask_{name}"] for name in expected}
    assert ours == pytest.approx(expected, abs=1e-12)
    assert 0.05 < ours["AP"] < 0.9
    assert numbers["AP"] != ours["AP"]


def one_image(**lists):
    """A cat and, of three categories, what is said of the others."""
    lists = {"neg_category_ids": [], "not_exhaustive_category_ids": []} | lists
    return {
        "images": [{"id": 5, "height": 100, "width": 100, **lists}],
        "annotations": [
            {"image_id": 5, "category_id": 1, "bbox": [0, 0, 40, 40], "iscrowd": 1}
        ],
        "categories": [
            {"id": k, "name": name, "frequency": "rfc"[k - 1]}
            for k, name in ((1, "cat"), (2, "dog"), (3, "cow"))
        ],
    }


def add(evaluator, boxes, classes):
    """Detections x1 y1 x2 y2, the best first."""
    count = len(boxes)
    evaluator.add(
        Batch(None, np.array([[100, 100]]), np.array([5]), *[None] * 4),
        Predictions(
            np.array([boxes], float),
            np.linspace(0.9, 0.4, count)[None],
            np.array([classes]),
            np.ones((1, count), bool),
        ),
    )


CAT, WRONG = [0, 0, 40, 40], [50, 50, 90, 90]


@pytest.mark.parametrize(
    ("lists", "label", "ap", "confused"),
    [
        ({}, 0, 0.5, {(3, 0): 1}),  # a false alarm above the only hit
        ({"not_exhaustive_category_ids": [1]}, 0, 1.0, {}),
        ({}, 1, 1.0, {}),  # nothing is known of dogs
        ({"not_exhaustive_category_ids": [2]}, 1, 1.0, {}),
        ({"neg_category_ids": [2]}, 1, 1.0, {(3, 1): 1}),  # of another class: no AP
    ],
)
def test_only_what_is_known_counts(lists, label, ap, confused):
    evaluator = DetectionEvaluator(one_image(**lists), (1, 2, 3), ("a", "b", "c"))
    add(evaluator, [WRONG, CAT], [label, 0])
    numbers = evaluator.compute()
    # The crowd flag means nothing here.
    assert numbers["AP"] == numbers["APr"] == pytest.approx(ap)
    assert numbers["APc"] == numbers["APf"] == -1.0
    diagnosis = diagnose(evaluator)
    mistakes = dict.fromkeys(KINDS, 0) | {"background": len(confused)}
    assert diagnosis.counts == mistakes
    expected = np.zeros((4, 4), int)
    for pair, count in ({(0, 0): 1} | confused).items():
        expected[pair] = count
    np.testing.assert_array_equal(diagnosis.confusion, expected)
    assert "LVIS, 300 detections an image" in evaluator.table()
    assert evaluator.table().splitlines()[2].split() == NAMES


def test_the_best_detections_of_an_image_are_judged_whatever_their_class():
    truth = one_image(neg_category_ids=[2])
    for most, ap in ((1, 0.0), (2, 1.0)):
        evaluator = DetectionEvaluator(truth, (1, 2, 3), ("a", "b", "c"), (most,))
        add(evaluator, [WRONG, CAT], [1, 0])
        assert evaluator.compute()["AP"] == pytest.approx(ap)


def test_an_object_without_a_mask_makes_its_category_not_exhaustive():
    truth = one_image()
    (cat,) = truth["annotations"]
    cat["segmentation"] = [[0, 0, 40, 0, 40, 40, 0, 40]]
    truth["annotations"].append({**cat, "bbox": WRONG[:2] + [40, 40]})
    del truth["annotations"][1]["segmentation"]
    evaluator = InstanceEvaluator(truth, (1, 2, 3), ("a", "b", "c"))
    boxes = np.array([[WRONG, CAT]], float)
    evaluator.add(
        Batch(None, np.array([[100, 100]]), np.array([5]), *[None] * 4),
        Predictions(
            boxes,
            np.array([[0.9, 0.8]]),
            np.zeros((1, 2), int),
            np.ones((1, 2), bool),
            np.ones((1, 2, 4, 4)),
        ),
    )
    numbers = evaluator.compute()
    assert numbers["AP"] == pytest.approx(1.0)
    assert numbers["mask_AP"] == pytest.approx(1.0)
    assert numbers["mask_AR300"] == pytest.approx(1.0)
    assert "Objects without a mask, left out of mask AP: 1" in evaluator.table()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t["images"][0].pop("neg_category_ids"), "image 5 has no 'neg_cat"),
        (
            lambda t: t["images"][0].pop("not_exhaustive_category_ids"),
            "image 5 has no 'not_exhaustive",
        ),
        (lambda t: t["categories"][1].pop("frequency"), "category 2 has the frequency"),
    ],
)
def test_half_an_lvis_ground_truth_is_refused_in_a_sentence(damage, message):
    truth = one_image()
    damage(truth)
    with pytest.raises(ValueError, match=message):
        DetectionEvaluator(truth, (1, 2, 3), ("a", "b", "c"))
    plain = DetectionEvaluator(truth, (1, 2, 3), ("a", "b", "c"), protocol="coco")
    assert len(plain.compute()) == 12
    with pytest.raises(ValueError, match="protocol 'voc': there are auto, coco, lvis"):
        DetectionEvaluator(truth, (1, 2, 3), ("a", "b", "c"), protocol="voc")
