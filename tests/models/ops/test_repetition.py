"""Doubling maps and repeating labels: the same numbers in every form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_arrays import torch_nearest

from models.ops.forms import NAMES, use_forms
from models.ops.repetition import repeat_labels, upsample


@pytest.mark.parametrize("forms", NAMES)
@pytest.mark.parametrize("size", [(6, 8), (5, 8), (6, 7), (5, 7)])
def test_doubling_is_torchs_nearest_interpolation(size, forms):
    x = jnp.arange(24.0).reshape(1, 3, 4, 2)
    with use_forms(forms):
        np.testing.assert_array_equal(upsample(x, size), torch_nearest(x, size))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_the_form_for_tpus_doubles_the_same_and_gives_the_same_gradient(size, dtype):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 3, 4, 2)), dtype)
    slopes = jnp.asarray(rng.integers(-9, 9, (2, *size, 2)), dtype)
    double = functools.partial(upsample, size=size)
    found = {}
    for forms in ("tpu", "gpu"):
        with use_forms(forms):
            doubled, backward = jax.vjp(double, x)
        found[forms] = doubled, backward(slopes)[0]
    for ours, plain in zip(*found.values(), strict=True):
        np.testing.assert_array_equal(ours, plain)


@pytest.mark.parametrize(("forms", "products"), [("cpu", 0), ("gpu", 0), ("tpu", 1)])
def test_products_are_for_tpus_alone(forms, products):
    labels = jnp.zeros((1, 3, 4), jnp.int32)
    for function, argument in (
        (functools.partial(upsample, size=(6, 8)), jnp.zeros((1, 3, 4, 2))),
        (functools.partial(repeat_labels, count=5), labels),
    ):
        with use_forms(forms):
            text = jax.jit(function).lower(argument).as_text()
        assert text.count("dot_general") == products


@pytest.mark.parametrize("forms", NAMES)
def test_labels_are_repeated_exactly(forms):
    rng = np.random.default_rng(0)
    labels = jnp.asarray(rng.integers(-2, 2**20, (2, 7, 3)), jnp.int32)
    with use_forms(forms):
        repeated = repeat_labels(labels, 5)
    np.testing.assert_array_equal(repeated, np.repeat(labels, 5, axis=-1))
    assert repeated.dtype == labels.dtype


@pytest.mark.parametrize("size", [(4, 8), (7, 8), (6, 9)])
def test_other_sizes_are_refused(size):
    with pytest.raises(ValueError, match="cannot double"):
        upsample(jnp.zeros((1, 3, 4, 2)), size)
