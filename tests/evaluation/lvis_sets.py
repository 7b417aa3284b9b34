"""LVIS ground truth, and a slow evaluation of it by the rules of its paper.

`slow_lvis` was compared with the package lvis 0.5.3 itself on 60 sets of this kind, all
numbers equal to 1e-12, when it was written. That package asks for an OpenCV that the
project cannot install beside its own, so the tests do without it.
"""

import numpy as np

AREAS = {"": (0, 1e10), "s": (0, 1024), "m": (1024, 9216), "l": (9216, 1e10)}
OVERLAPS = np.linspace(0.5, 0.95, 10)


def federate(rng, truth):
    """Add to a COCO dictionary what LVIS says of its images and categories."""
    ids = [category["id"] for category in truth["categories"]]
    for k, category in enumerate(truth["categories"]):
        category["frequency"] = "rcf"[k % 3]
    for image in truth["images"]:
        own = {
            a["category_id"]
            for a in truth["annotations"]
            if a["image_id"] == image["id"]
        }
        absent = [c for c in ids if c not in own and rng.random() < 0.5]
        image["neg_category_ids"] = absent
        open_ids = [c for c in ids if c in own and rng.random() < 0.4]
        image["not_exhaustive_category_ids"] = open_ids


def slow_lvis(truth, detections, overlap, most=300):
    """The thirteen numbers.

    `overlap` is a function of a detection and an annotation. Detections need image_id,
    category_id, score and area.
    """
    best = []
    for image in truth["images"]:
        own = [d for d in detections if d["image_id"] == image["id"]]
        best += sorted(own, key=lambda d: -d["score"])[:most]
    aps = {}  # (category, area, overlap) -> AP and recall
    for category in truth["categories"]:
        for area, (low, high) in AREAS.items():
            for threshold in OVERLAPS:
                pooled, wanted = [], 0  # (score, right or wrong)
                for image in sorted(truth["images"], key=lambda i: i["id"]):
                    key = (image["id"], category["id"])
                    objects = [
                        a
                        for a in truth["annotations"]
                        if (a["image_id"], a["category_id"]) == key and a["area"] > 0
                    ]
                    if not objects and category["id"] not in image["neg_category_ids"]:
                        continue
                    found = [
                        d for d in best if (d["image_id"], d["category_id"]) == key
                    ]
                    wanted += sum(low <= a["area"] <= high for a in objects)
                    free = list(objects)
                    for one in found:
                        choices = [
                            (low <= a["area"] <= high, overlap(one, a), k)
                            for k, a in enumerate(free)
                            if overlap(one, a) >= threshold
                        ]
                        if choices:
                            counted, _, k = max(choices)
                            free.pop(k)
                            if counted:
                                pooled.append((one["score"], True))
                        elif (
                            low <= one["area"] <= high
                            and category["id"]
                            not in image["not_exhaustive_category_ids"]
                        ):
                            pooled.append((one["score"], False))
                if wanted:
                    pooled.sort(key=lambda pair: -pair[0])
                    aps[category["id"], area, threshold] = curve(pooled, wanted)

    def mean(which, area="", threshold=None, groups="rcf"):
        values = [
            value[which]
            for (category, one, at), value in aps.items()
            if one == area and threshold in (None, at) and frequency[category] in groups
        ]
        return float(np.mean(values)) if values else -1.0

    frequency = {c["id"]: c["frequency"] for c in truth["categories"]}
    numbers = {"AP": mean(0), "AP50": mean(0, threshold=OVERLAPS[0])}
    numbers["AP75"] = mean(0, threshold=OVERLAPS[5])
    numbers |= {f"AP{area}": mean(0, area) for area in "sml"}
    numbers |= {f"AP{group}": mean(0, groups=group) for group in "rcf"}
    numbers[f"AR{most}"] = mean(1)
    return numbers | {f"AR{area}": mean(1, area) for area in "sml"}


def curve(pooled, wanted):
    """AP at 101 recalls and the last recall, of (score, right), best first."""
    hits = np.cumsum([right for _, right in pooled])
    ap = 0.0
    for recall in np.linspace(0, 1, 101):
        enough = [hit / (k + 1) for k, hit in enumerate(hits) if hit / wanted >= recall]
        ap += max(enough, default=0.0)
    return ap / 101, (hits[-1] / wanted if pooled else 0.0)
