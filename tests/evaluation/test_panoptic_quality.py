"""Panoptic quality by hand, by a slow oracle and by hotcoco; the merge into one map."""

import copy
import json

import numpy as np
import pytest
from hotcoco.panoptic import METRIC_NAMES, PanopticEval

from agvm_jax.evaluation.panoptic import PanopticEvaluator
from agvm_jax.evaluation.panoptic_files import read_panoptic_png, write_panoptic_png
from agvm_jax.evaluation.panoptic_merge import MergeRule, merge_panoptic
from agvm_jax.evaluation.panoptic_quality import match_segments
from agvm_jax.structures import Batch, Predictions

PERSON, CAR, SKY, GRASS = 1, 3, 90, 77
CATEGORIES = [
    {"id": PERSON, "name": "person", "isthing": 1},
    {"id": CAR, "name": "car", "isthing": 1},
    {"id": SKY, "name": "sky", "isthing": 0},
    {"id": GRASS, "name": "grass", "isthing": 0},
]


def segment(number, category, crowd=0):
    return {"id": number, "category_id": category, "iscrowd": crowd}


def row(*runs):
    """A map one pixel high: (id, length), ..."""
    return np.concatenate([np.full(length, number) for number, length in runs])[None]


def test_a_match_above_a_half_counts_with_its_iou_and_one_below_as_two_mistakes():
    truth, found = row((1, 10), (2, 10)), row((5, 8), (6, 12))
    tally = match_segments(
        truth, [segment(1, PERSON), segment(2, PERSON)],
        found, [segment(5, PERSON), segment(6, PERSON)],
    )  # fmt: skip
    assert tally.iou == {PERSON: [pytest.approx(8 / 10), pytest.approx(10 / 12)]}
    assert tally.false_positives == tally.false_negatives == {}

    tally = match_segments(
        row((1, 10), (0, 10)), [segment(1, PERSON)],
        row((0, 5), (5, 5), (0, 10)), [segment(5, PERSON)],
    )  # fmt: skip
    assert tally.iou == {}  # exactly a half is no match
    assert tally.false_positives == tally.false_negatives == {PERSON: 1}


def test_another_class_is_no_match():
    tally = match_segments(
        row((1, 9)), [segment(1, PERSON)], row((1, 9)), [segment(1, CAR)]
    )
    assert (tally.false_positives, tally.false_negatives) == ({CAR: 1}, {PERSON: 1})


def test_void_is_taken_out_of_the_union_and_forgives_what_lies_mostly_in_it():
    truth = row((1, 6), (0, 10))
    tally = match_segments(
        truth, [segment(1, PERSON)], row((5, 14), (0, 2)), [segment(5, PERSON)]
    )
    assert tally.iou == {PERSON: [1.0]}
    tally = match_segments(
        truth, [segment(1, PERSON)], row((0, 6), (5, 10)), [segment(5, CAR)]
    )
    assert tally.false_positives == {}


def test_crowds_are_not_to_be_found_and_forgive_their_own_class_only():
    truth, listed = row((1, 10), (2, 4)), [segment(1, PERSON, 1), segment(2, SKY)]
    for category, wrong in ((PERSON, {}), (CAR, {CAR: 1})):
        tally = match_segments(
            truth, listed, row((7, 10), (8, 4)), [segment(7, category), segment(8, SKY)]
        )
        assert tally.iou == {SKY: [1.0]}
        assert tally.false_positives == wrong
        assert tally.false_negatives == {}


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ([segment(5, SKY), segment(6, SKY)], r"only listed \[6\]"),
        ([], r"only in the map \[5\]"),
        ([segment(5, SKY), segment(5, CAR)], "listed twice 1"),
    ],
)
def test_a_map_and_segments_that_do_not_agree_are_refused(listed, message):
    with pytest.raises(ValueError, match=message):
        match_segments(row((1, 4)), [segment(1, SKY)], row((5, 4)), listed)
    with pytest.raises(ValueError, match="of size"):
        match_segments(row((1, 4)), [segment(1, SKY)], row((5, 5)), [segment(5, SKY)])


def make_set(rng, images=5, side=24):
    """Random panoptic ground truth with void and crowds, and predictions like it."""
    truth = {"images": [], "annotations": [], "categories": CATEGORIES}
    truths, found = {}, {}
    for image_id in (10 + rng.permutation(images)).tolist():
        name = f"{image_id}.png"
        segments = np.zeros((side, side), np.int64)
        info = []
        for k in range(rng.integers(2, 7)):
            y, x = rng.integers(0, side - 6, 2)
            tall, wide = rng.integers(4, 16, 2)
            number = int(rng.integers(1, 1 << 24))
            segments[y : y + tall, x : x + wide] = number
            category = CATEGORIES[rng.integers(4)]["id"]
            crowd = int(k == 0 and category in (PERSON, CAR))
            info.append(segment(number, category, crowd))
        ids, areas = np.unique(segments, return_counts=True)
        area = dict(zip(ids.tolist(), areas.tolist(), strict=True))
        info = [one | {"area": area[one["id"]]} for one in info if one["id"] in area]
        truths[name] = segments
        truth["images"].append({"id": image_id, "height": side, "width": side})
        truth["annotations"].append(
            {"image_id": image_id, "file_name": name, "segments_info": info}
        )
        guess = np.roll(segments, rng.integers(0, 3, 2), (0, 1))
        y, x = rng.integers(0, side - 8, 2)
        guess[y : y + 8, x : x + 8] = 77
        listed = []
        for number in set(guess.ravel().tolist()) - {0}:
            same = [one for one in info if one["id"] == number]
            category = same[0]["category_id"] if same else CAR
            if rng.random() < 0.15:
                category = SKY
            listed.append({"id": number, "category_id": category})
        found[image_id] = guess, listed
    return truth, truths, found


def slow_numbers(truth, truths, found):
    """PQ, SQ, RQ by pixel sets, for all classes, things and stuff."""
    stat = {c["id"]: [0.0, 0, 0, 0] for c in CATEGORIES}  # iou, tp, fp, fn
    for annotation in truth["annotations"]:
        segments = truths[annotation["file_name"]]
        guess, listed = found[annotation["image_id"]]
        pixels = {
            one["id"]: set(zip(*np.nonzero(segments == one["id"]), strict=True))
            for one in annotation["segments_info"]
        }
        void = set(zip(*np.nonzero(segments == 0), strict=True))
        done = set()
        for other in listed:
            mine = set(zip(*np.nonzero(guess == other["id"]), strict=True))
            hit = False
            crowd = set()
            for one in annotation["segments_info"]:
                if one["category_id"] != other["category_id"]:
                    continue
                theirs = pixels[one["id"]]
                if one["iscrowd"]:
                    crowd |= theirs
                    continue
                iou = len(mine & theirs) / len((mine - void) | theirs)
                if iou > 0.5:
                    hit = True
                    done.add(one["id"])
                    stat[one["category_id"]][0] += iou
                    stat[one["category_id"]][1] += 1
            if not hit and len(mine & (void | crowd)) <= len(mine) / 2:
                stat[other["category_id"]][2] += 1
        for one in annotation["segments_info"]:
            if not one["iscrowd"] and one["id"] not in done:
                stat[one["category_id"]][3] += 1
    numbers = {}
    for suffix, kinds in (("", (0, 1)), ("_things", (1,)), ("_stuff", (0,))):
        rows = []
        for category in CATEGORIES:
            iou, tp, fp, fn = stat[category["id"]]
            if category["isthing"] in kinds and tp + fp + fn:
                whole = tp + fp / 2 + fn / 2
                rows.append((iou / whole, iou / max(tp, 1), tp / whole))
        for k, name in enumerate(("PQ", "SQ", "RQ")):
            numbers[name + suffix] = float(np.mean([one[k] for one in rows]))
    return numbers


def evaluator_of(truth, truths, **options):
    return PanopticEvaluator(
        truth, truths.__getitem__, (PERSON, CAR), (None, SKY, GRASS), **options
    )


@pytest.mark.parametrize("seed", range(4))
def test_numbers_are_those_of_a_slow_oracle_and_of_hotcoco(seed, tmp_path):
    truth, truths, found = make_set(np.random.default_rng(seed))
    evaluator = evaluator_of(truth, truths, save_to=tmp_path / "found")
    for image_id, (guess, listed) in found.items():
        evaluator.add_map(image_id, guess, listed)
    numbers = evaluator.compute()
    assert numbers == pytest.approx(slow_numbers(truth, truths, found))
    assert 0.05 < numbers["PQ"] < 0.95
    assert numbers["PQ_things"] != numbers["PQ_stuff"]

    # What was saved is read by another tool, with equal numbers.
    (tmp_path / "truth").mkdir()
    for name, segments in truths.items():
        write_panoptic_png(tmp_path / "truth" / name, segments)
    for name, content in (("truth", truth), ("found", evaluator.annotations())):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    theirs = PanopticEval(str(tmp_path / "truth.json"), str(tmp_path / "found.json"))
    theirs.evaluate()
    names = [n.replace("_th", "_things").replace("_st", "_stuff") for n in METRIC_NAMES]
    expected = dict(zip(names, theirs.stats, strict=True))
    assert numbers == pytest.approx(expected, abs=1e-12)


def test_the_ground_truth_against_itself_is_exactly_one():
    truth, truths, _ = make_set(np.random.default_rng(9))
    evaluator = evaluator_of(truth, truths)
    for annotation in truth["annotations"]:
        # A crowd is not to be found: whoever predicts it finds nothing there.
        evaluator.add_map(
            annotation["image_id"],
            truths[annotation["file_name"]],
            annotation["segments_info"],
        )
    assert set(evaluator.compute().values()) == {1.0}


def test_images_that_were_never_added_count_as_nothing_found():
    truth, truths, found = make_set(np.random.default_rng(1))
    evaluator = evaluator_of(truth, truths)
    assert set(evaluator.compute().values()) == {0.0}
    image_id = truth["annotations"][0]["image_id"]
    evaluator.add_map(image_id, *found[image_id])
    none = {a["image_id"]: (np.zeros((24, 24), int), []) for a in truth["annotations"]}
    expected = slow_numbers(truth, truths, none | {image_id: found[image_id]})
    assert evaluator.compute() == pytest.approx(expected)


def test_shares_of_two_processes_merge_to_the_same_bits():
    truth, truths, found = make_set(np.random.default_rng(2), images=6)
    whole, left, right = (evaluator_of(truth, truths) for _ in range(3))
    for k, (image_id, one) in enumerate(found.items()):
        whole.add_map(image_id, *one)
        (left if k % 2 else right).add_map(image_id, *one)
    states = [right.state(), left.state()]
    left.merge(states)
    assert left.compute() == whole.compute()
    assert left.annotations() == whole.annotations()
    assert left.table() == whole.table()
    with pytest.raises(ValueError, match="added twice"):
        left.merge([states[0], states[0]])


def test_the_table_lists_the_groups_and_the_classes_that_occur():
    truth = {
        "annotations": [
            {"image_id": 1, "file_name": "1.png", "segments_info": [segment(4, SKY)]}
        ],
        "categories": CATEGORIES,
    }
    evaluator = evaluator_of(truth, {"1.png": row((4, 8))})
    evaluator.add_map(1, row((9, 6), (0, 2)), [segment(9, SKY)])
    rows = [line.split() for line in evaluator.table().splitlines()]
    assert ["all", "75.0", "75.0", "100.0"] in rows
    assert ["things", "-", "-", "-"] in rows
    assert ["sky", "75.0", "75.0", "100.0", "1"] in rows
    assert not any(cells[:1] == ["car"] for cells in rows)


def merge(boxes, scores, labels, rule=None, masks=None, categories=None):
    count = len(boxes)
    return merge_panoptic(
        np.array(boxes, float).reshape(count, 4),
        np.array(scores),
        [PERSON] * count if categories is None else categories,
        np.ones((count, 4, 4)) if masks is None else masks,
        labels,
        (None, SKY, GRASS),
        rule or MergeRule(stuff_area=1),
    )


def test_the_better_instance_lies_on_top_and_a_covered_one_is_dropped():
    labels = np.zeros((10, 10), int)
    boxes = [[0, 0, 10, 6], [0, 4, 10, 10], [0, 0, 10, 5]]
    picture, segments = merge(boxes, [0.6, 0.9, 0.55], labels)
    np.testing.assert_array_equal(picture[4:], 1)
    np.testing.assert_array_equal(picture[:4], 2)
    assert [s["score"] for s in segments] == [0.9, 0.6]
    half = [[0, 0, 10, 4], [0, 2, 10, 6]]
    assert len(merge(half, [0.9, 0.8], labels)[1]) == 2  # exactly a half stays
    strict = MergeRule(covered=0.4, stuff_area=1)
    assert len(merge(half, [0.9, 0.8], labels, strict)[1]) == 1


def test_low_scores_and_empty_masks_make_no_segment():
    labels = np.zeros((10, 10), int)
    picture, segments = merge([[0, 0, 5, 5]], [0.49], labels)
    assert not picture.any() and segments == []
    _, segments = merge([[0, 0, 5, 5]], [0.9], labels, masks=np.zeros((1, 4, 4)))
    assert segments == []


def test_stuff_fills_what_is_left_unless_it_is_small_and_never_from_the_thing_label():
    labels = np.zeros((10, 10), int)
    labels[:6] = 1  # sky
    labels[8:, :2] = 2  # a little grass
    picture, segments = merge([[0, 0, 10, 3]], [0.9], labels, MergeRule(stuff_area=5))
    assert [s["category_id"] for s in segments] == [PERSON, SKY]
    np.testing.assert_array_equal(picture[:3], 1)
    np.testing.assert_array_equal(picture[3:6], 2)
    np.testing.assert_array_equal(picture[6:], 0)
    _, segments = merge([[0, 0, 10, 3]], [0.9], labels, MergeRule(stuff_area=4))
    assert [s["category_id"] for s in segments] == [PERSON, SKY, GRASS]


def test_predictions_of_a_network_become_a_panoptic_map_in_original_pixels():
    segments = np.zeros((20, 40), np.int64)
    segments[:, :] = 8
    segments[10:, 20:] = 9
    info = [segment(8, SKY), segment(9, CAR)]
    truth = {
        "annotations": [{"image_id": 3, "file_name": "3.png", "segments_info": info}],
        "categories": CATEGORIES,
    }
    rule = MergeRule(stuff_area=100)
    evaluator = evaluator_of(truth, {"3.png": segments}, rule=rule)
    # The input is 16 x 32, the picture its top left 10 x 20, the labels at stride 2.
    labels = np.zeros((2, 8, 16), int)
    labels[:, :5, :10] = 1
    boxes = np.array([[10.0, 5, 20, 10], [0, 0, 5, 5]])
    evaluator.add(
        Batch(
            np.zeros((2, 16, 32, 3), np.uint8),
            np.array([[10, 20], [10, 20]]),
            np.array([-1, 3]),
            *[None] * 4,
        ),
        Predictions(
            np.stack([boxes] * 2),
            np.array([[0.9, 0.8]] * 2),
            np.array([[1, 0]] * 2),
            np.array([[True, False]] * 2),
            np.ones((2, 2, 7, 7)),
            labels,
        ),
    )
    assert evaluator.num_images == 1
    assert set(evaluator.compute().values()) == {1.0}


def test_panoptic_files_keep_every_id(tmp_path):
    ids = np.array([[0, 1, 255, 256], [65535, 65536, 8195143, (1 << 24) - 1]])
    write_panoptic_png(tmp_path / "a.png", ids)
    np.testing.assert_array_equal(read_panoptic_png(tmp_path / "a.png"), ids)
    for bad in (-1, 1 << 24):
        with pytest.raises(ValueError, match="three bytes"):
            write_panoptic_png(tmp_path / "b.png", np.array([[bad]]))


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
