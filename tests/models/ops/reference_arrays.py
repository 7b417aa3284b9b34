"""What tests of convolutions share: random float64 arrays and how results compare."""

import jax.numpy as jnp
import numpy as np


def random_arrays(*shapes):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape) for shape in shapes]


def as_float32(*arrays):
    return [jnp.asarray(array, jnp.float32) for array in arrays]


def assert_close(actual, expected):
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=2e-6 * abs(expected).max()
    )
