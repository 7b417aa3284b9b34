"""Order and windows of boxes, beside what is counted one by one."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.cpu.roi_windows import axis_window, reading_order
from models.ops.forms import use_forms
from models.ops.roi_align import roi_align
from models.ops.roi_sampling import (
    RoiSettings,
    assign_levels,
    axis_samples,
    axis_weights,
)

BINS = 3


def make_boxes(count=200):
    rng = np.random.default_rng(0)
    corner = rng.uniform(-20, 500, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(0, 600, (count, 2))], 1).astype(
        np.float32
    )


def slow_order(boxes, levels, chunk):
    """Stripes by x, and in each from top to bottom."""
    centre = boxes[:, :2] + boxes[:, 2:]
    order = []
    for level in sorted(set(levels)):
        rows = sorted(np.flatnonzero(levels == level), key=lambda r: (centre[r, 0], r))
        stripe = chunk * math.ceil(math.sqrt(len(rows) / chunk))
        for start in range(0, len(rows), stripe):
            part = sorted(rows[start : start + stripe])
            order += sorted(part, key=lambda r: centre[r, 1])
    return order


def test_boxes_are_read_level_by_level_in_stripes():
    boxes = make_boxes()
    boxes[5:9] = boxes[4]  # ties
    levels = np.asarray(assign_levels(boxes, (4, 8, 16, 32)))
    assert set(levels) == {0, 1, 2, 3}
    order = jax.jit(reading_order, static_argnums=2)(boxes, levels, 8)
    assert order.tolist() == slow_order(boxes, levels, 8)


@pytest.mark.parametrize(("ratio", "aligned"), [(2, False), (0, True)])
def test_a_window_holds_every_cell_that_has_a_weight(ratio, aligned):
    length, count = 60, 16
    rng = np.random.default_rng(1)
    seen = {True: 0, False: 0}

    @jax.jit
    def look(start, end, own):
        samples = axis_samples(
            start,
            end,
            length,
            RoiSettings((4,), 3, ratio, aligned),
            longest=length,
        )
        share = jnp.where(own[:, None, None], samples.share, 0.0)
        first, fits = axis_window(samples._replace(share=share), length, count)
        whole = axis_weights(samples, 0, length)
        return first, fits, whole, axis_weights(samples, first, count)

    for _ in range(60):
        start = rng.uniform(-6, 62) + rng.uniform(0, 10, 5)
        end = start + rng.exponential(6, 5)
        own = np.arange(5) < rng.integers(1, 6)
        first, fits, whole, window = look(*map(np.float32, (start, end)), own)
        used = np.flatnonzero(np.asarray(whole)[own].any(axis=(0, 1)))
        if not len(used):
            continue
        seen[bool(fits)] += 1
        if fits:
            assert first <= used.min() and used.max() < first + count
            inside = np.asarray(whole)[own][..., first : first + count]
            np.testing.assert_allclose(np.asarray(window)[own], inside, atol=1e-6)
        else:  # one cell more may be read, with weight 0, at a whole number
            assert used.max() - used.min() >= count - 1
    assert min(seen.values()) > 5


def test_a_window_of_no_box_fits():
    samples = axis_samples(
        jnp.zeros(2),
        jnp.full(2, 50.0),
        60,
        RoiSettings((4,), 3, 2, True),
        longest=60,
    )
    nothing = samples._replace(share=jnp.zeros_like(samples.share))
    first, fits = axis_window(nothing, 60, 16)
    assert fits and 0 <= first <= 44


def test_neighbours_read_only_the_window_that_they_lie_in():
    """And larger boxes the whole map: there a cell that nobody weighs is still read."""
    feature = np.ones((1, 100, 120, 2), np.float32)
    feature[:, :, 80:] = np.nan
    corner = np.random.default_rng(3).uniform(40, 100, (1, 30, 2))
    small = np.concatenate([corner, corner + 60], -1).astype(np.float32)

    @jax.jit
    def pool(boxes):
        def total(feature):
            pooled = roi_align([feature], boxes, strides=(4,), output_size=BINS)
            return pooled.sum(), pooled

        return jax.grad(total, has_aux=True)(feature)

    with use_forms("cpu"):
        gradient, pooled = pool(small)
    np.testing.assert_allclose(pooled, 1.0, rtol=1e-6)
    # Every bin is a mean: its weights add up to 1, and the gradient collects them.
    np.testing.assert_allclose(gradient.sum(), 30 * BINS * BINS * 2, rtol=1e-5)
    assert not gradient[:, :, 80:].any()
    large = np.array([[[0, 0, 230, 390]] * 30], np.float32)
    with use_forms("cpu"):
        assert np.isnan(pool(large)[1]).all()
