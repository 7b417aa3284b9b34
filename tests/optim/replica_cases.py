"""Gradients of eight replicas, meshes to spread them over, and each way to measure."""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from agvm_jax.optim import label_tree

ESTIMATORS = [
    ("halves", "interleaved"),
    ("halves", "contiguous"),
    ("norms", "interleaved"),
]
each_estimator = pytest.mark.parametrize(("estimator", "split"), ESTIMATORS)
MODULES = {"mean": None, "backbone": "backbone", "head": "head", "none": "none"}


def make_gradients(replicas=8, dtype=np.float32):
    """Leaves whose sizes no number of replicas divides; one frozen, a module empty."""
    rng = np.random.default_rng(0)

    def leaf(*shape):
        noise = rng.normal(size=(replicas, *shape))
        return (0.5 * rng.normal(size=shape) + noise).astype(dtype)

    return {
        "backbone": {"w": leaf(3, 5), "b": leaf(7)},
        "head": [leaf(11), leaf(0), leaf(1)],
        "mean": leaf(4),
        "none": leaf(0, 3),
    }


GRADS = make_gradients()
LABELS = label_tree(jax.tree.map(lambda g: g[0], GRADS), MODULES)


def make_mesh(shape, names):
    devices = jax.devices()[: int(np.prod(shape))]
    return jax.make_mesh(shape, names, (AxisType.Auto,) * len(shape), devices=devices)


def assert_close(actual, expected, rtol=2e-5):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=rtol, atol=1e-6),
        actual,
        expected,
    )
