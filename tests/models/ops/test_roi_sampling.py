"""Levels of boxes and weights of cells, beside what is known of them."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from models.ops.roi_sampling import (
    RoiSettings,
    assign_levels,
    axis_samples,
    axis_weights,
)


@pytest.mark.parametrize(("side", "level"), [(111.99, 0), (112, 1), (224, 2), (448, 3)])
def test_a_box_on_the_border_of_two_levels_is_at_the_coarser(side, level):
    box = jnp.array([3.0, 5.0, 3.0 + side, 5.0 + side])
    assert assign_levels(box, (4, 8, 16, 32)) == level


def test_weights_of_a_bin_inside_add_up_to_one():
    samples = axis_samples(
        jnp.array([3.3]),
        jnp.array([17.9]),
        60,
        RoiSettings((4,), 7, 2, True),
        longest=60,
    )
    weights = axis_weights(samples, 0, 60)
    np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-6)
    # A tent's mean is where it stands: the middle of each bin.
    middle = 3.3 - 0.5 + (np.arange(7) + 0.5) * (17.9 - 3.3) / 7
    np.testing.assert_allclose(weights[0] @ np.arange(60.0), middle, rtol=1e-5)
    assert math.isclose(float(samples.share.sum()), 7.0, rel_tol=1e-6)
