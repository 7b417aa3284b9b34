"""What is behind an AP: which mistakes were made, how often, and in which images.

The kinds of mistakes are those of TIDE (Bolya et al., "TIDE: A General Toolbox for
Identifying Object Detection Errors", ECCV 2020), looked for in this order:

* localisation: the right class, but the overlap is between 0.1 and 0.5;
* classification: an object of another class overlaps by 0.5 or more;
* duplicate: the object was found already, with a higher score;
* background: nothing overlaps by more than 0.1;
* both: what remains, a wrong class at a poor place;
* missed: an object without a detection, that no localisation or classification
  mistake is about.

By LVIS' rules detections do not count of which nothing is known (see `federated`).
"""

import dataclasses
from collections.abc import Collection
from typing import Protocol, runtime_checkable

import hotcoco
import numpy as np
from hotcoco.primitives import bbox_iou
from jaxtyping import Bool, Float, Int, Integer

from agvm_jax.evaluation.metrics.ground_truth import GroundTruth

KINDS = ("localisation", "classification", "duplicate", "background", "both", "missed")
_TIDE = dict(zip(KINDS, ("Loc", "Cls", "Dupe", "Bkg", "Both", "Miss"), strict=True))


@runtime_checkable
class Detections(Protocol):
    """What is diagnosed: see `DetectionEvaluator`, which has all of it."""

    ground_truth: GroundTruth
    category_ids: tuple[int, ...]
    added: Collection[int]

    def rows(self) -> np.ndarray: ...

    def result(self) -> hotcoco.COCOeval: ...


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """Counts of hits and mistakes among detections above a score.

    Attributes:
      score_threshold: detections below it are left out of the counts.
      counts: kind of mistake -> how many. In an image that was never added every
        object is missed.
      gains: kind of mistake -> how much AP50 would rise, in [0, 1], if mistakes of this
        kind alone were mended. Over all detections, whatever their score.
      hits, false_alarms, missed: (I,) for each image; an image's detections inside
        crowd regions are neither, nor by LVIS' rules those of a category that is not
        annotated exhaustively there, if they match nothing.
      image_ids: (I,) the images that were added, rising.
      confusion: (K + 1, K + 1) counts, row the true class, column the detected one; the
        last row is background (false alarms), the last column "not found". Here the
        classes have no say in the matching: each detection, best first, takes the free
        object that it overlaps most. What is neither hit nor mistake is not here.
    """

    score_threshold: float
    counts: dict[str, int]
    gains: dict[str, float]
    hits: np.ndarray
    false_alarms: np.ndarray
    missed: np.ndarray
    image_ids: np.ndarray
    confusion: np.ndarray

    def ranking(self) -> np.ndarray:
        """Image ids from best to worst by F1, then by the number of hits less mistakes.

        Images with neither objects nor detections are left out.
        """
        mistakes = self.false_alarms + self.missed
        told = np.flatnonzero(self.hits + mistakes)
        f1 = 2 * self.hits[told] / (2 * self.hits[told] + mistakes[told])
        rest = self.hits[told] - mistakes[told]
        return self.image_ids[told][np.lexsort((self.image_ids[told], -rest, -f1))]

    def table(self) -> str:
        """Return the mistakes as text."""
        lines = [
            f"Hits {self.hits.sum()}, mistakes at score {self.score_threshold:g} and "
            "overlap 0.5:",
            "",
            f"{'mistake':<16}{'count':>8}{'AP50 to gain':>15}",
        ]
        lines += [
            f"{kind:<16}{self.counts[kind]:>8}{100 * self.gains[kind]:>15.1f}"
            for kind in KINDS
        ]
        return "\n".join(lines)


def diagnose(
    evaluator: Detections,
    score_threshold: float = 0.3,
    overlap: float = 0.5,
    background: float = 0.1,
) -> Diagnosis:
    """Sort an evaluator's detections into hits and kinds of mistakes.

    Args:
      evaluator: a `DetectionEvaluator` after the last `add`.
      score_threshold: what counts as a detection, for the counts and the confusion.
      overlap: IoU from which a detection is a hit.
      background: IoU up to which a detection is on background.
    """
    truth = evaluator.ground_truth
    image_ids = np.array(sorted(evaluator.added), np.int64)
    rows = evaluator.rows()
    rows = rows[rows[:, 5] >= score_threshold]
    federated = truth.federated
    if federated:
        ids = np.array(evaluator.category_ids)
        present = set(
            zip(truth.image_ids.tolist(), ids[truth.classes].tolist(), strict=True)
        )
        pairs = rows[:, [0, 6]].astype(np.int64).T.tolist()
        rows = rows[~federated.unknown(*pairs, present)]
    # Best first within each image, as COCO matches them; ties stay in their order.
    rows = rows[np.lexsort((-rows[:, 5], rows[:, 0]))]
    starts = np.searchsorted(rows[:, 0], image_ids, "left")
    ends = np.searchsorted(rows[:, 0], image_ids, "right")
    by_image = np.argsort(truth.image_ids, kind="stable")
    sorted_ids = truth.image_ids[by_image]
    first = np.searchsorted(sorted_ids, image_ids, "left")
    last = np.searchsorted(sorted_ids, image_ids, "right")
    class_of = {c: k for k, c in enumerate(evaluator.category_ids)}

    none = len(class_of)
    confusion = np.zeros((none + 1, none + 1), np.int64)
    totals = dict.fromkeys(KINDS, 0)
    tallies = np.zeros((len(image_ids), 3), np.int64)
    for i in range(len(image_ids)):
        found = rows[starts[i] : ends[i]]
        objects = by_image[first[i] : last[i]]
        classes = np.array([class_of[c] for c in found[:, 6].tolist()], np.int64)
        own, crowd = truth.classes[objects], truth.crowd[objects]
        iou = bbox_iou(found[:, 1:5], truth.boxes[objects], crowd)
        iou = iou.reshape(len(found), len(objects))
        same = classes[:, None] == own[None]
        forgiven = (same & crowd & (iou >= overlap)).any(axis=1)
        if federated:
            some = federated.not_exhaustive[int(image_ids[i])]
            forgiven |= np.isin(found[:, 6], list(some))
        kinds, hits = _sort_image(iou, same, crowd, forgiven, overlap, background)
        _count_pairs(confusion, iou, classes, own, crowd, forgiven, overlap)
        for kind, count in kinds.items():
            totals[kind] += count
        lost = np.count_nonzero(~crowd) - hits
        wrong = sum(kinds.values()) - kinds["missed"]
        tallies[i] = hits, wrong, lost
    unseen = ~np.isin(truth.image_ids, image_ids) & ~truth.crowd
    totals["missed"] += int(np.count_nonzero(unseen))
    np.add.at(confusion, (truth.classes[unseen], none), 1)

    result = evaluator.result()
    gains = result.tide_errors(pos_thr=overlap, bg_thr=background)["delta_ap"]
    return Diagnosis(
        score_threshold=score_threshold,
        counts=totals,
        gains={kind: float(gains[_TIDE[kind]]) for kind in KINDS},
        hits=tallies[:, 0],
        false_alarms=tallies[:, 1],
        missed=tallies[:, 2],
        image_ids=image_ids,
        confusion=confusion,
    )


def _sort_image(
    iou: Float[np.ndarray, "D G"],
    same: Bool[np.ndarray, "D G"],
    crowd: Bool[np.ndarray, " G"],
    forgiven: Bool[np.ndarray, " D"],
    overlap: float,
    background: float,
) -> tuple[dict[str, int], int]:
    """Return the mistakes by kind and the number of hits in one image.

    Args:
      iou: (D, G), best detection first.
      same: (D, G), whether the classes are equal.
      crowd: (G,).
      forgiven: (D,), no mistakes if they match nothing.
    """
    taken = np.zeros(len(crowd), bool)
    close = same & ~crowd & (iou >= overlap)
    wrong = ~forgiven
    for d in np.flatnonzero(close.any(axis=1)):
        free = np.where(close[d] & ~taken, iou[d], 0.0)
        if free.any():
            best = len(free) - 1 - int(np.argmax(free[::-1]))  # COCO: last of equals
            taken[best] = True
            wrong[d] = False
    rows = np.flatnonzero(wrong)  # (W,)
    own_iou = iou[rows] * (same[rows] & ~crowd)  # (W, G)
    other_iou = iou[rows] * (~same[rows] & ~crowd)
    own, other = (np.max(x, axis=1, initial=0.0) for x in (own_iou, other_iou))
    # A hit-worthy object of the same class must have been taken: a duplicate.
    near = (own >= background) & (own < overlap)
    conditions = (near, other >= overlap, own >= overlap, own.clip(other) <= background)
    kind = np.select(conditions, range(4), 4)
    kinds = dict(zip(KINDS, np.bincount(kind, minlength=5).tolist(), strict=False))
    explained = taken.copy()
    if crowd.size:
        explained[own_iou[kind == 0].argmax(axis=1)] = True
        explained[other_iou[kind == 1].argmax(axis=1)] = True
    kinds["missed"] = int(np.count_nonzero(~crowd & ~explained))
    return kinds, int(np.count_nonzero(taken))


def _count_pairs(
    confusion: Int[np.ndarray, "C C"],
    iou: Float[np.ndarray, "D G"],
    found_classes: Integer[np.ndarray, " D"],
    object_classes: Integer[np.ndarray, " G"],
    crowd: Bool[np.ndarray, " G"],
    forgiven: Bool[np.ndarray, " D"],
    overlap: float,
) -> None:
    """Add one image to a confusion matrix; arguments as in `_sort_image`."""
    none = len(confusion) - 1
    free = np.where(crowd, -1.0, iou)  # (D, G)
    left = ~crowd
    for d, k in enumerate(found_classes.tolist()):
        best = int(np.argmax(free[d])) if len(crowd) else -1
        if best >= 0 and free[d, best] >= overlap:
            free[:, best] = -1.0
            left[best] = False
            confusion[object_classes[best], k] += 1
        elif not forgiven[d]:
            confusion[none, k] += 1
    np.add.at(confusion, (object_classes[left], none), 1)
