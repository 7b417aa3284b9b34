"""Kinds of mistakes: by hand, against a second implementation, and by a slow oracle."""

import numpy as np
import pytest
from random_sets import evaluator_of, make_batches, make_set

from agvm_jax.evaluation.detection import DetectionEvaluator
from agvm_jax.evaluation.metrics.diagnosis import KINDS, Diagnosis, diagnose
from agvm_jax.structures import Batch, Predictions


def evaluated(seed, *, absent=True, **options):
    truth, category_ids, found = make_set(np.random.default_rng(seed), **options)
    if not absent:  # no detections of the class that has no ground truth
        last = len(category_ids) - 1
        found = {
            image_id: tuple(
                array[classes != last] for array in (boxes, scores, classes)
            )
            for image_id, (boxes, scores, classes) in found.items()
        }
    evaluator = evaluator_of(truth, category_ids)
    for batch, predictions in make_batches(truth, found):
        evaluator.add(batch, predictions)
    return truth, category_ids, evaluator


def by_hand(objects, found, crowd=(), threshold=0.3):
    """One image, two classes. objects, found: (x, y, w, h, class), best found first."""
    truth = {
        "images": [{"id": 1, "height": 200, "width": 200}],
        "annotations": [
            {
                "id": k + 1,
                "image_id": 1,
                "category_id": one[4] + 1,
                "bbox": list(one[:4]),
                "iscrowd": int(k in crowd),
            }
            for k, one in enumerate(objects)
        ],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }
    evaluator = DetectionEvaluator(truth, (1, 2), ("a", "b"))
    rows = np.array(found, float).reshape(-1, 5)
    count = len(rows)
    evaluator.add(
        Batch(None, np.array([[200, 200]]), np.array([1]), *[None] * 4),
        Predictions(
            np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)[None],
            np.linspace(0.9, 0.5, count)[None],
            rows[None, :, 4].astype(int),
            np.ones((1, count), bool),
        ),
    )
    return diagnose(evaluator, threshold)


OBJECT = (10, 10, 50, 50, 0)


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        ((40, 10, 50, 50, 0), "localisation"),  # overlap 0.25
        ((12, 10, 50, 50, 1), "classification"),
        ((120, 120, 30, 30, 0), "background"),
        ((40, 10, 50, 50, 1), "both"),
    ],
)
def test_each_kind_of_mistake_is_told_from_the_others(found, kind):
    diagnosis = by_hand([OBJECT], [found])
    missed = int(kind in ("background", "both"))
    expected = dict.fromkeys(KINDS, 0) | {kind: 1, "missed": missed}
    assert diagnosis.counts == expected
    assert (diagnosis.hits, diagnosis.false_alarms, diagnosis.missed) == (0, 1, 1)


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        ((0, 0, 20, 10, 0), None),  # an overlap of exactly a half is a hit
        ((0, 0, 20, 10, 1), "classification"),
        ((0, 0, 20, 2, 0), "localisation"),  # exactly a tenth
        ((0, 0, 20, 2, 1), "background"),
    ],
)
def test_at_the_borders_of_overlap(found, kind):
    diagnosis = by_hand([(0, 0, 20, 20, 0)], [found])
    mistakes = {} if kind is None else {kind: 1, "missed": int(kind == "background")}
    assert diagnosis.counts == dict.fromkeys(KINDS, 0) | mistakes
    # With the classes left aside: a pair from a half on, else missed and false alarm.
    pair = (0, found[4]) if found[3] == 10 else (2, found[4])
    assert diagnosis.confusion[pair] == 1
    assert diagnosis.confusion[0, 2] == (found[3] == 2)


def test_of_objects_that_overlap_equally_the_last_is_taken_as_coco_does():
    # The first detection overlaps both by 0.8, the second the last one only.
    objects = [(0, 0, 10, 8, 0), (0, 2, 10, 8, 0)]
    found = [(0, 0, 10, 10, 0), (0, 4, 10, 6, 0)]
    assert by_hand(objects, found).hits == 1


def test_a_detection_at_the_threshold_counts():
    assert by_hand([OBJECT], [OBJECT], threshold=0.9).hits == 1
    assert by_hand([OBJECT], [OBJECT], threshold=0.91).hits == 0


def test_of_images_with_equal_f1_the_one_with_more_hits_is_the_better():
    hits, wrong = np.array([1, 3, 2, 0, 4]), np.array([0, 0, 2, 0, 4])
    diagnosis = Diagnosis(0.3, {}, {}, hits, wrong, wrong, np.arange(5) + 10, wrong)
    # Without objects or detections: left out. Equal to the end: by their ids.
    assert diagnosis.ranking().tolist() == [11, 10, 12, 14]


def test_a_second_detection_of_one_object_is_a_duplicate():
    diagnosis = by_hand([OBJECT], [OBJECT, (11, 10, 50, 50, 0)])
    assert diagnosis.counts == dict.fromkeys(KINDS, 0) | {"duplicate": 1}
    assert (diagnosis.hits, diagnosis.false_alarms, diagnosis.missed) == (1, 1, 0)


def test_the_better_score_takes_the_object_even_if_it_overlaps_less():
    diagnosis = by_hand([OBJECT], [(15, 10, 50, 50, 0), OBJECT])
    assert diagnosis.counts["duplicate"] == 1


def test_detections_in_crowds_of_their_class_are_no_mistakes_and_crowds_not_missed():
    crowd = (100, 100, 90, 90, 0)
    diagnosis = by_hand([OBJECT, crowd], [OBJECT, (120, 120, 20, 20, 0)], crowd={1})
    assert diagnosis.counts == dict.fromkeys(KINDS, 0)
    diagnosis = by_hand([OBJECT, crowd], [OBJECT, (120, 120, 20, 20, 1)], crowd={1})
    assert diagnosis.counts["background"] == 1


def test_an_image_without_objects_has_only_background_mistakes():
    diagnosis = by_hand([], [OBJECT])
    assert diagnosis.counts == dict.fromkeys(KINDS, 0) | {"background": 1}
    assert by_hand([], []).counts == dict.fromkeys(KINDS, 0)


@pytest.mark.parametrize("seed", range(4))
def test_counts_are_those_of_hotcocos_own_tide_where_it_counts_the_same(seed):
    # hotcoco lets crowds take part and skips classes without ground truth.
    _, _, evaluator = evaluated(seed, absent=False, images=40, crowds=0)
    counts = diagnose(evaluator, score_threshold=0.0).counts
    theirs = evaluator.result().tide_errors()["counts"]
    names = ("Loc", "Cls", "Dupe", "Bkg", "Both", "Miss")
    assert list(counts.values()) == [theirs[name] for name in names]
    assert min(counts.values()) > 3  # every kind occurs


def shared(a, b):
    wide = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    tall = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(wide, 0) * max(tall, 0)


def overlap(a, b):
    return shared(a, b) / (a[2] * a[3] + b[2] * b[3] - shared(a, b))


def inside(a, b):
    return shared(a, b) / (a[2] * a[3])


def slow_confusion(truth, category_ids, detections, threshold):
    count = len(category_ids)
    matrix = np.zeros((count + 1, count + 1), int)
    for image in truth["images"]:
        objects = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
        found = [d for d in detections if d["image_id"] == image["id"]]
        found = [d for d in found if d["score"] >= threshold]
        crowds = [a for a in objects if a["iscrowd"]]
        objects = [a for a in objects if not a["iscrowd"]]
        free = list(range(len(objects)))
        for one in sorted(found, key=lambda d: -d["score"]):
            column = category_ids.index(one["category_id"])
            overlaps = [overlap(one["bbox"], objects[k]["bbox"]) for k in free]
            if overlaps and max(overlaps) >= 0.5:
                taken = free.pop(int(np.argmax(overlaps)))
                row = category_ids.index(objects[taken]["category_id"])
            elif any(
                inside(one["bbox"], crowd["bbox"]) >= 0.5
                for crowd in crowds
                if crowd["category_id"] == one["category_id"]
            ):
                continue  # neither right nor wrong
            else:
                row = count
            matrix[row, column] += 1
        for k in free:
            matrix[category_ids.index(objects[k]["category_id"]), count] += 1
    return matrix


@pytest.mark.parametrize("threshold", [0.0, 0.4])
def test_the_confusion_matrix_is_that_of_a_slow_oracle(threshold):
    truth, category_ids, evaluator = evaluated(3, images=30)
    found = diagnose(evaluator, threshold).confusion
    expected = slow_confusion(truth, category_ids, evaluator.detections(), threshold)
    np.testing.assert_array_equal(found, expected)
    assert expected[:-1, :-1].sum() > np.trace(expected[:-1, :-1]) > 20


def test_tallies_of_images_add_up_and_agree_with_ap50():
    truth, _, evaluator = evaluated(5, images=30)
    diagnosis = diagnose(evaluator, score_threshold=0.0)
    objects = sum(not a["iscrowd"] for a in truth["annotations"])
    assert diagnosis.hits.sum() + diagnosis.missed.sum() == objects
    wrong = sum(diagnosis.counts[kind] for kind in KINDS[:-1])
    assert diagnosis.false_alarms.sum() == wrong
    # COCO counts the same objects as found at overlap 0.5, class by class.
    recall = evaluator.result().eval["recall"][0, :, 0, -1]
    counts = [row[3] for row in evaluator.per_class()]
    found = [
        r * n for r, n in zip(recall[evaluator.columns], counts, strict=True) if n > 0
    ]
    assert diagnosis.hits.sum() == pytest.approx(sum(found))


def test_objects_in_images_that_were_never_added_are_missed():
    truth, category_ids, found = make_set(np.random.default_rng(5))
    evaluator = evaluator_of(truth, category_ids)
    objects = [a for a in truth["annotations"] if not a["iscrowd"]]
    none = dict.fromkeys(KINDS, 0)
    assert diagnose(evaluator).counts == none | {"missed": len(objects)}
    evaluator.add(*next(make_batches(truth, found, batch_size=6)))
    unseen = [a for a in objects if a["image_id"] not in evaluator.added]
    alone = dict(truth)
    alone["images"] = [i for i in truth["images"] if i["id"] in evaluator.added]
    alone["annotations"] = [
        a for a in truth["annotations"] if a["image_id"] in evaluator.added
    ]
    half = evaluator_of(alone, category_ids)
    half.add(*next(make_batches(alone, found, batch_size=6)))
    expected = diagnose(half).counts
    expected["missed"] += len(unseen)
    assert diagnose(evaluator).counts == expected
    assert len(unseen) > 3


def test_the_ranking_goes_from_the_best_image_to_the_worst():
    _, _, evaluator = evaluated(2, images=30)
    diagnosis = diagnose(evaluator)
    ranking = diagnosis.ranking().tolist()
    at = {image_id: k for k, image_id in enumerate(diagnosis.image_ids.tolist())}

    def f1(image_id):
        k = at[image_id]
        mistakes = diagnosis.false_alarms[k] + diagnosis.missed[k]
        return 2 * diagnosis.hits[k] / (2 * diagnosis.hits[k] + mistakes)

    scores = [f1(image_id) for image_id in ranking]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > scores[-1]
    empty = (diagnosis.hits + diagnosis.false_alarms + diagnosis.missed) == 0
    assert set(ranking) == set(diagnosis.image_ids[~empty].tolist())


def test_mending_gains_lie_between_nothing_and_everything_and_are_in_the_table():
    _, _, evaluator = evaluated(4, images=30)
    diagnosis = diagnose(evaluator)
    room = 1 - evaluator.compute()["AP50"]
    assert all(0 <= gain <= room for gain in diagnosis.gains.values())
    assert max(diagnosis.gains.values()) > 0.01
    rows = [line.split() for line in diagnosis.table().splitlines()]
    for kind in KINDS:
        gain = f"{100 * diagnosis.gains[kind]:.1f}"
        assert [kind, str(diagnosis.counts[kind]), gain] in rows
