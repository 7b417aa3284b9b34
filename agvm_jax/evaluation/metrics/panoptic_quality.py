"""Panoptic quality of one image's segments, and its sum over a data set.

Kirillov et al., "Panoptic Segmentation", CVPR 2019, section 4. Two segments of one
class match if their IoU is above 0.5, which no segment can have with two others. For
each class

    PQ = sum of IoU over matches / (matches + false positives / 2 + false negatives / 2)
    SQ = mean IoU of matches,  RQ = matches / (the same denominator),  PQ = SQ * RQ

The details are COCO's: void pixels (id 0) are taken out of the union; crowd segments
are not to be found; a prediction that is more than half void or crowd of its own class
is no false positive. Several crowd segments of one class count together for that.
panopticapi looks at the last of them only. Where an image has one a class, as in the
200 of COCO's that were looked at, the numbers are equal.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Integer

VOID = 0


@dataclasses.dataclass(frozen=True)
class Tally:
    """Matches and mistakes of one image, by category id.

    Attributes:
      iou: category id -> the IoU of each match.
      false_positives, false_negatives: category id -> how many.
    """

    iou: dict[int, list[float]]
    false_positives: dict[int, int]
    false_negatives: dict[int, int]


def match_segments(
    truth: Integer[np.ndarray, "..."],
    truth_segments: Sequence[Mapping[str, Any]],
    found: Integer[np.ndarray, "..."],
    found_segments: Sequence[Mapping[str, Any]],
) -> Tally:
    """Match an image's predicted segments with the true ones.

    Args:
      truth, found: (H, W) integer maps of segment ids, 0 where there is none.
      truth_segments: a mapping with id, category_id and perhaps iscrowd for each.
      found_segments: with id and category_id for each.

    Raises:
      ValueError: the maps differ in size, or a map and its segments do not agree.
    """
    if truth.shape != found.shape:
        raise ValueError(
            f"a panoptic map of size {found.shape} against a truth of {truth.shape}"
        )
    truth_ids, found_ids, shared = _shared_pixels(truth, found)  # (T,), (F,), (T, F)
    truth_areas, found_areas = shared.sum(axis=1), shared.sum(axis=0)
    truth_info = _by_id(truth_segments, truth_ids, "ground truth")
    found_info = _by_id(found_segments, found_ids, "prediction")
    void = shared[truth_ids == VOID].sum(axis=0)  # (F,), zeros where there is no void

    tally = Tally({}, {}, {})
    matched_truth, matched_found = set(), set()
    for t, f in zip(*np.nonzero(shared), strict=True):
        one, other = truth_info.get(truth_ids[t]), found_info.get(found_ids[f])
        if one is None or other is None or one.get("iscrowd"):
            continue
        if one["category_id"] != other["category_id"]:
            continue
        union = truth_areas[t] + found_areas[f] - shared[t, f] - void[f]
        iou = shared[t, f] / union
        if iou > 0.5:
            tally.iou.setdefault(one["category_id"], []).append(float(iou))
            matched_truth.add(truth_ids[t])
            matched_found.add(found_ids[f])

    forgiven = {}  # category -> pixels of each prediction in its crowd regions
    for t, segment_id in enumerate(truth_ids.tolist()):
        one = truth_info.get(segment_id)
        if one is None or segment_id in matched_truth:
            continue
        category = one["category_id"]
        if one.get("iscrowd"):
            forgiven[category] = forgiven.get(category, 0) + shared[t]
        else:
            _count(tally.false_negatives, category)
    for f, segment_id in enumerate(found_ids.tolist()):
        other = found_info.get(segment_id)
        if other is None or segment_id in matched_found:
            continue
        category = other["category_id"]
        crowd = forgiven[category][f] if category in forgiven else 0
        if (void[f] + crowd) / found_areas[f] <= 0.5:
            _count(tally.false_positives, category)
    return tally


def quality(
    tallies: Sequence[Tally], category_id: int
) -> tuple[float, float, float, int]:
    """Return PQ, SQ, RQ of a category and the number of its true segments.

    -1 each where the category neither occurs nor was predicted. The sum of IoU is
    rounded once (`math.fsum`), so that the order of the images has no effect.
    """
    ious = [iou for tally in tallies for iou in tally.iou.get(category_id, ())]
    wrong = sum(tally.false_positives.get(category_id, 0) for tally in tallies)
    missed = sum(tally.false_negatives.get(category_id, 0) for tally in tallies)
    matches, total = len(ious), math.fsum(ious)
    if matches + wrong + missed == 0:
        return -1.0, -1.0, -1.0, 0
    whole = matches + wrong / 2 + missed / 2
    segments = matches + missed
    return total / whole, total / matches if matches else 0.0, matches / whole, segments


def _shared_pixels(
    truth: Integer[np.ndarray, "H W"], found: Integer[np.ndarray, "H W"]
) -> tuple[
    Integer[np.ndarray, " T"], Integer[np.ndarray, " F"], Int[np.ndarray, "T F"]
]:
    """Return both maps' ids, rising, and how many pixels each pair of them shares.

    Runs of equal pixels are counted rather than pixels: there are far fewer.
    """
    truth, found = truth.ravel(), found.ravel()
    starts = np.flatnonzero((truth[1:] != truth[:-1]) | (found[1:] != found[:-1])) + 1
    starts = np.concatenate([[0], starts])
    lengths = np.diff(starts, append=truth.size)
    truth_ids, rows = np.unique(truth[starts], return_inverse=True)
    found_ids, columns = np.unique(found[starts], return_inverse=True)
    shared = np.zeros((len(truth_ids), len(found_ids)), np.int64)
    np.add.at(shared, (rows, columns), lengths)
    return truth_ids, found_ids, shared


def _by_id(
    segments: Sequence[Mapping[str, Any]], ids: Integer[np.ndarray, " N"], whose: str
) -> dict[int, Mapping[str, Any]]:
    info = {segment["id"]: segment for segment in segments}
    drawn = set(ids.tolist()) - {VOID}
    if len(info) != len(segments) or set(info) != drawn:
        listed = set(info)
        raise ValueError(
            f"the {whose}'s segments and map do not agree: only in the map "
            f"{sorted(drawn - listed)[:5]}, only listed {sorted(listed - drawn)[:5]}, "
            f"listed twice {len(segments) - len(info)}"
        )
    return info


def _count(counts: dict[int, int], category: int) -> None:
    counts[category] = counts.get(category, 0) + 1
