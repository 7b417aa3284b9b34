"""What is done with boxes, by loops over NumPy arrays: the oracle of some tests."""

import numpy as np


def slow_iou(a, b):
    side = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = np.prod(np.maximum(side, 0))
    total = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared
    return shared / total if total > 0 else 0.0


def slow_nms(candidates, threshold, most):
    """The (box, score, class) that greedy NMS keeps, best first."""
    candidates = sorted(candidates, key=lambda candidate: -candidate[1])
    kept = []
    for box, score, label in candidates:
        stronger = [other for other, _, its in kept if its == label]
        if all(slow_iou(box, other) <= threshold for other in stronger):
            kept.append((box, score, label))
    return kept[:most]
