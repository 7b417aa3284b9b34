"""Panoptic quality by hand, by a slow oracle and by hotcoco."""

import json

import numpy as np
import pytest
from hotcoco.panoptic import METRIC_NAMES, PanopticEval
from panoptic_sets import (
    CAR,
    CATEGORIES,
    PERSON,
    SKY,
    evaluator_of,
    make_set,
    row,
    segment,
)

from agvm_jax.evaluation.metrics.panoptic_quality import match_segments
from agvm_jax.panoptic_png import write_panoptic_png


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


def test_several_crowds_of_one_class_forgive_together():
    # Four of ten pixels in each of two crowds, none of which is more than half.
    truth = row((1, 4), (2, 4), (3, 2))
    listed = [segment(1, PERSON, 1), segment(2, PERSON, 1), segment(3, SKY)]
    for order in (listed, listed[::-1]):
        tally = match_segments(truth, order, row((7, 10)), [segment(7, PERSON)])
        assert tally.false_positives == {}
        assert tally.false_negatives == {SKY: 1}
    listed[0]["category_id"] = CAR
    tally = match_segments(truth, listed, row((7, 10)), [segment(7, PERSON)])
    assert tally.false_positives == {PERSON: 1}


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
    assert "counted as empty: 4" in evaluator.table()


def test_an_image_in_which_all_is_missed_has_the_score_0_and_an_empty_one_none():
    truth = {
        "annotations": [
            {"image_id": k, "file_name": f"{k}.png", "segments_info": listed}
            for k, listed in enumerate([[segment(4, SKY)], [], [segment(4, SKY)]])
        ],
        "categories": CATEGORIES,
    }
    maps = {"0.png": row((4, 8)), "1.png": row((0, 8)), "2.png": row((4, 8))}
    evaluator = evaluator_of(truth, maps)
    for image_id, found in enumerate(([(4, 8)], [(0, 8)], [(0, 8)])):
        listed = [segment(4, SKY)] if image_id == 0 else []
        evaluator.add_map(image_id, row(*found), listed)
    assert evaluator.image_scores() == {0: 1.0, 2: 0.0}


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
