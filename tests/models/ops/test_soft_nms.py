"""Soft-NMS beside loops, on random boxes and where it can go wrong."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from box_loops import slow_iou

from models.ops.soft_nms import METHODS, soft_nms

COUNT, MOST = 40, 25
SETTINGS = {"iou_threshold": 0.3, "sigma": 0.4, "score_threshold": 0.05}


@functools.cache
def compiled(method, **changes):
    settings = {"max_outputs": MOST} | SETTINGS | changes
    return jax.jit(jax.vmap(functools.partial(soft_nms, method=method, **settings)))


def slow_soft_nms(boxes, scores, classes, valid, method):
    """Rows and scores as figure 2 of the paper has it, class by class."""
    left = {row: float(scores[row]) for row in np.flatnonzero(valid)}
    kept = []
    for label in np.unique(classes):
        own = {row: score for row, score in left.items() if classes[row] == label}
        while own:
            best = max(own, key=own.get)
            score = own.pop(best)
            if score > SETTINGS["score_threshold"]:
                kept.append((best, score))
            for row in own:
                overlap = slow_iou(boxes[best], boxes[row])
                if method == "gaussian":
                    own[row] *= np.exp(-(overlap**2) / SETTINGS["sigma"])
                elif overlap > SETTINGS["iou_threshold"]:
                    own[row] *= 1 - overlap
    return sorted(kept, key=lambda pair: -pair[1])[:MOST]


def random_cases(count):
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 40, (count, COUNT, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(2, 30, corner.shape)], -1)
    boxes[:, 7] = boxes[:, 3]  # equal boxes
    boxes[:, 9, 2] = boxes[:, 9, 0]  # without area
    scores = rng.random((count, COUNT))
    classes = rng.integers(0, 3, (count, COUNT))
    valid = rng.random((count, COUNT)) < 0.8
    return boxes.astype(np.float32), scores.astype(np.float32), classes, valid


@pytest.mark.parametrize("method", METHODS)
def test_it_equals_the_papers_loop(method):
    cases = random_cases(50)
    rows, kept, scores = map(np.asarray, compiled(method)(*map(jnp.asarray, cases)))
    lowered = 0
    for index, case in enumerate(zip(*cases, strict=True)):
        expected = slow_soft_nms(*case, method)
        count = len(expected)
        assert kept[index].tolist() == [True] * count + [False] * (MOST - count)
        assert rows[index, :count].tolist() == [row for row, _ in expected]
        np.testing.assert_allclose(
            scores[index, :count], [score for _, score in expected], rtol=1e-4
        )
        assert not rows[index, count:].any() and not scores[index, count:].any()
        lowered += (scores[index, :count] < case[1][rows[index, :count]] - 1e-3).sum()
    assert lowered > 100


def test_what_cannot_be_kept_is_not():
    boxes = jnp.tile(jnp.array([0.0, 0.0, 4.0, 4.0]), (1, 4, 1))
    scores = jnp.array([[jnp.nan, 0.9, 0.8, 0.04]])
    given = (
        boxes,
        scores,
        jnp.zeros((1, 4), int),
        jnp.array([[True, False, True, True]]),
    )
    rows, kept, left = compiled("linear")(*given)
    # The equal box falls to 0 exactly, and no NaN comes of it.
    assert kept[0].sum() == 1 and rows[0, 0] == 2 and left[0, 0] == jnp.float32(0.8)
    nothing = compiled("linear")(*given[:3], jnp.zeros((1, 4), bool))
    assert not any(leaf.any() for leaf in nothing)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "hard"}, "'hard' is not known"),
        ({"iou_threshold": 1.5}, "iou_threshold 1.5"),
        ({"sigma": 0.0}, "sigma 0.0 above 0"),
        ({"max_outputs": 0}, "max_outputs is 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    settings = {"method": "linear", "max_outputs": 3} | SETTINGS | changes
    case = [jnp.asarray(column[0]) for column in random_cases(1)]
    with pytest.raises(ValueError, match=message):
        soft_nms(*case, **settings)
