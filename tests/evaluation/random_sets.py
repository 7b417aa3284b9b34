"""Random ground truth and detections around it, as batches, for the tests here."""

import numpy as np

from agvm_jax.evaluation.detection import DetectionEvaluator
from agvm_jax.structures import Batch, Predictions


def make_set(
    rng, *, images=12, classes=4, max_objects=9, max_found=14, ties=False, crowds=0.15
):
    """A ground truth with crowds, empty images, all sizes, and detections around it.

    The last class has no ground truth, and category ids have holes and are not sorted.
    Returns the dictionary, the category ids, and each image's (boxes, scores, classes).
    """
    category_ids = rng.permutation(90)[:classes].tolist()
    truth = {
        "images": [],
        "annotations": [],
        "categories": [{"id": c, "name": f"c{c}"} for c in category_ids],
    }
    found = {}
    for image_id in (1000 + rng.permutation(images)).tolist():
        height, width = rng.integers(150, 300, 2).tolist()
        truth["images"].append({"id": image_id, "height": height, "width": width})
        boxes, labels = [], []
        for _ in range(rng.integers(0, max_objects) if image_id % 4 else 0):
            side = rng.choice([8, 25, 60, 120]) * rng.uniform(0.8, 1.25, 2)
            corner = rng.uniform(0, np.maximum([width, height] - side, 1))
            label = int(rng.integers(classes - 1))
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": category_ids[label],
                    "bbox": [*corner.tolist(), *side.tolist()],
                    "area": float(side.prod() * rng.uniform(0.5, 1)),
                    "iscrowd": int(rng.random() < crowds),
                }
            )
            boxes.append([*corner, *(corner + side)])
            labels.append(label)
        guesses, guessed = [], []
        for _ in range(rng.integers(0, max_found) if image_id % 5 else 0):
            if boxes and rng.random() < 0.8:
                k = rng.integers(len(boxes))
                guess = boxes[k] + rng.normal(0, rng.choice([0, 1, 5]), 4)
                guesses.append([*guess[:2], *np.maximum(guess[2:], guess[:2] + 1)])
                right = rng.random() < 0.8
                guessed.append(labels[k] if right else rng.integers(classes))
            else:
                guesses.append([*rng.uniform(0, 60, 2), *rng.uniform(61, 150, 2)])
                guessed.append(rng.integers(classes))
        scores = np.sort(rng.random(len(guesses)))[::-1]
        if ties:
            scores = np.round(scores * 4) / 4
        found[image_id] = (
            np.array(guesses).reshape(-1, 4),
            scores,
            np.array(guessed, np.int32),
        )
    return truth, category_ids, found


def make_batches(truth, found, *, batch_size=5, slots=16, shrink=1):
    """Batches and Predictions, float64 so that no rounding hides a difference."""
    images = truth["images"]
    for start in range(0, len(images), batch_size):
        image_id = np.full(batch_size, -1)
        size = np.full((batch_size, 2), 64)
        boxes = np.zeros((batch_size, slots, 4))
        scores = np.zeros((batch_size, slots))
        classes = np.full((batch_size, slots), -1)
        valid = np.zeros((batch_size, slots), bool)
        for row, image in enumerate(images[start : start + batch_size]):
            image_id[row] = image["id"]
            size[row] = image["height"] * shrink, image["width"] * shrink
            one_boxes, one_scores, one_classes = found[image["id"]]
            count = len(one_boxes)
            boxes[row, :count] = one_boxes * shrink
            scores[row, :count] = one_scores
            classes[row, :count] = one_classes
            valid[row, :count] = True
        yield (
            Batch(None, size, image_id, None, None, None, None),
            Predictions(boxes, scores, classes, valid),
        )


def evaluator_of(truth, category_ids, **options):
    names = [f"c{c}" for c in category_ids]
    return DetectionEvaluator(truth, category_ids, names, **options)
