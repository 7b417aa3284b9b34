"""Mask targets beside loops over cells, and the bounds of what they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.ops.masks import mask_targets, shared_lengths

SIZE, CELLS = 5, 4
run = jax.jit(mask_targets, static_argnums=3)


def slow_targets(mask, box, roi, size):
    """The share of each cell of the proposal that lies in a set cell of the mask."""
    target = np.zeros((size, size))
    cell = (np.asarray(roi[2:], float) - roi[:2]) / size
    own = (np.asarray(box[2:], float) - box[:2]) / len(mask)
    if min(*cell, *own) <= 0:
        return target
    for i, j in np.ndindex(size, size):
        corner = np.array([roi[0] + j * cell[0], roi[1] + i * cell[1]])
        for row, column in zip(*np.nonzero(mask), strict=True):
            low = np.array([box[0] + column * own[0], box[1] + row * own[1]])
            sides = np.minimum(corner + cell, low + own) - np.maximum(corner, low)
            target[i, j] += np.prod(np.maximum(sides, 0)) / np.prod(cell)
    return target


@pytest.fixture(scope="module")
def cases():
    rng = np.random.default_rng(0)
    masks = rng.random((12, CELLS, CELLS)) < 0.5
    corner = rng.uniform(0, 30, (12, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 40, (12, 2))], 1)
    rois = boxes + rng.normal(0, 5, (12, 4))
    rois[:, 2:] = np.maximum(rois[:, 2:], rois[:, :2] + 0.5)
    return masks, boxes, rois


def test_targets_are_those_of_loops_over_cells(cases):
    masks, boxes, rois = cases
    found = run(*map(jnp.asarray, cases), SIZE)
    expected = [
        slow_targets(mask, box, roi, SIZE)
        for mask, box, roi in zip(masks, boxes, rois, strict=True)
    ]
    assert np.ptp(expected) > 0.9
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_proposal_that_is_the_box_gives_the_mask_back(cases):
    masks, boxes, _ = cases
    found = run(jnp.asarray(masks), jnp.asarray(boxes), jnp.asarray(boxes), CELLS)
    np.testing.assert_allclose(found, masks, atol=1e-4)


@pytest.mark.parametrize(
    "roi",
    [(3, 3, 3, 9), (50, 50, 60, 60), (9, 9, 3, 3)],
    ids=["without area", "beside the box", "upside down"],
)
def test_there_is_nothing_under_a_proposal_that_does_not_meet_the_mask(roi):
    box = jnp.array([[0.0, 0.0, 8.0, 8.0]])
    full = jnp.ones((1, CELLS, CELLS), jnp.uint8)
    found = run(full, box, jnp.array([roi], jnp.float32), SIZE)
    assert not found.any()


def test_a_box_without_area_has_an_empty_target():
    box = jnp.array([[4.0, 4.0, 4.0, 4.0]])
    full = jnp.ones((1, CELLS, CELLS), jnp.uint8)
    assert not run(full, box, jnp.array([[0.0, 0.0, 8.0, 8.0]]), SIZE).any()


def test_shares_of_a_line_add_up_to_what_lies_within_the_other():
    start, end = jnp.array([0.0, 2.0]), jnp.array([10.0, 4.0])
    low, high = jnp.array([5.0, 0.0]), jnp.array([20.0, 8.0])
    shares = shared_lengths(start, end, low, high, 2, 3)
    np.testing.assert_allclose(shares.sum(axis=2), [[0, 1], [1, 1]], atol=1e-6)


def test_the_target_of_a_large_full_mask_is_full():
    """Rounding must not make a share larger than 1, whose logit would be sought."""
    rng = np.random.default_rng(1)
    corner = rng.uniform(100, 1000, (200, 2))
    rois = np.concatenate([corner, corner + rng.uniform(0.01, 300, (200, 2))], 1)
    boxes = rois + [-50, -50, 50, 50]
    full = np.ones((200, CELLS, CELLS), np.uint8)
    found = run(*map(jnp.asarray, (full, boxes, rois)), SIZE)
    assert found.max() <= 1.0
    np.testing.assert_allclose(found, 1.0, atol=2e-2)
