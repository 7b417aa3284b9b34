"""A data set of one image, and detections in it, for cases worked out by hand."""

import numpy as np

from agvm_jax.structures import Batch, Predictions


def one_image(boxes, size=100):
    return {
        "images": [{"id": 5, "height": size, "width": size}],
        "annotations": [
            {"id": i, "image_id": 5, "category_id": 1, "bbox": list(box)}
            for i, box in enumerate(boxes)
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }


def add_found(evaluator, boxes, scores, image_id=5, classes=None):
    count = len(boxes)
    classes = np.zeros(count, int) if classes is None else classes
    corners = np.array(boxes, float).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    evaluator.add(
        Batch(None, np.array([[100, 100]]), np.array([image_id]), *[None] * 4),
        Predictions(
            corners[None],
            np.array(scores, float)[None],
            np.array(classes)[None],
            np.ones((1, count), bool),
        ),
    )
