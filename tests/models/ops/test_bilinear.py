"""Bilinear interpolation beside a slow loop."""

import jax.numpy as jnp
import numpy as np
import pytest

from models.ops.bilinear import between_cells, double, offsets


def slow_bilinear(x, factor):
    """(h, w, C) -> (f h, f w, C) in float64: each pixel's centre between four cells."""
    height, width, channels = x.shape
    out = np.zeros((height * factor, width * factor, channels))
    for i in range(height * factor):
        for j in range(width * factor):
            row = np.clip((i + 0.5) / factor - 0.5, 0, height - 1)
            column = np.clip((j + 0.5) / factor - 0.5, 0, width - 1)
            top, left = int(row), int(column)
            for a, wa in ((top, 1 - row + top), (top + 1, row - top)):
                for b, wb in ((left, 1 - column + left), (left + 1, column - left)):
                    if wa and wb:
                        out[i, j] += wa * wb * x[a, b]
    return out


@pytest.mark.parametrize("size", [(6, 8), (5, 8), (6, 7), (5, 7)])
def test_a_doubled_map_is_interpolated_and_cropped(size):
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 2)).astype(np.float32)
    found = double(jnp.asarray(x), size)
    expected = np.stack([slow_bilinear(one, 2) for one in x])
    np.testing.assert_allclose(found, expected[:, : size[0], : size[1]], atol=1e-6)


def test_a_map_of_one_cell_is_constant():
    np.testing.assert_array_equal(double(jnp.full((1, 1, 1, 3), 7.0), (2, 2)), 7.0)


def test_pixels_of_one_kind_are_the_map_moved():
    x = np.random.default_rng(1).normal(size=(1, 3, 4, 2)).astype(np.float32)
    expected = slow_bilinear(x[0], 4)
    steps = offsets(4).tolist()
    np.testing.assert_allclose(steps, [-0.375, -0.125, 0.125, 0.375])
    for i, rows in enumerate(steps):
        for j, columns in enumerate(steps):
            found = between_cells(jnp.asarray(x), rows, columns)
            np.testing.assert_allclose(found[0], expected[i::4, j::4], atol=1e-6)


def test_a_size_that_is_not_the_double_is_refused():
    with pytest.raises(ValueError, match="cannot double a map of 3x4 to"):
        double(jnp.zeros((1, 3, 4, 1)), (7, 8))
