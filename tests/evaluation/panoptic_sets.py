"""Random panoptic ground truth and predictions like it, for the tests here."""

import numpy as np

from agvm_jax.evaluation.panoptic import PanopticEvaluator

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


def evaluator_of(truth, truths, **options):
    return PanopticEvaluator(
        truth, truths.__getitem__, (PERSON, CAR), (None, SKY, GRASS), **options
    )
