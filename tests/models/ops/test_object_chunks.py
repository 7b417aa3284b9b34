"""Sums in chunks beside the plain sum: value, gradients, work done and memory kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.ops import object_chunks
from models.ops.forms import use_forms
from models.ops.object_chunks import sum_over_objects


@pytest.fixture(params=["cpu", "gpu"], autouse=True)
def forms(request):
    """Every test here runs for each form; a TPU's is that of GPUs."""
    with use_forms(request.param):
        yield request.param


def make_sample(rows, channels=5):
    rng = np.random.default_rng(rows)
    is_object = jnp.asarray(np.arange(rows) < np.array([[rows // 3], [1]]))
    features = jnp.asarray(rng.normal(size=(2, rows, channels)), jnp.float32)
    return features, jnp.asarray(rng.random((2, rows)), jnp.float32), is_object


def surprise_with(weight):
    def function(features, targets, is_object):
        errors = jnp.tanh(features @ weight) - targets
        return jnp.where(is_object, errors**2, 0.0).sum()

    return function


@pytest.mark.parametrize("rows", [3, 16, 40])
def test_what_is_summed_in_chunks_is_the_whole(rows):
    """Also where the last chunk is not full, and where whole chunks hold nothing."""
    features, *fields = make_sample(rows)
    weight = jnp.linspace(-1, 1, features.shape[-1])

    def in_chunks(weight, features):
        return 3 * sum_over_objects(surprise_with(weight), features, *fields)

    def at_once(weight, features):
        return 3 * surprise_with(weight)(features, *fields)

    found, expected = (
        jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(weight, features)
        for total in (in_chunks, at_once)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        found,
        expected,
    )
    np.testing.assert_allclose(in_chunks(weight, features), expected[0], rtol=1e-5)


@pytest.mark.parametrize("rows", [3, 16, 40])
def test_nothing_is_computed_for_chunks_without_objects(rows, forms, monkeypatch):
    monkeypatch.setattr(object_chunks, "_ROWS", 4)
    features, *fields = make_sample(rows)
    seen = []

    def function(features, targets, is_object):
        jax.debug.callback(lambda: seen.append(1))
        return jnp.where(is_object, features.sum(axis=-1) * targets, 0.0).sum()

    def total(features):
        return sum_over_objects(function, features, *fields)

    jax.block_until_ready(jax.jit(jax.grad(total))(features))
    jax.effects_barrier()
    if forms == "cpu":  # 16 rows of one image; one chunk for the second one's object
        assert len(seen) == -(-(rows // 3) // 16) + 1
    else:  # 4 rows of both
        assert len(seen) == -(-(rows // 3 + 1) // 4)


def test_only_the_gradients_are_kept_for_the_backward_pass():
    features, *fields = make_sample(40)
    weight = jnp.linspace(-1, 1, features.shape[-1])

    def total(weight, features):
        return sum_over_objects(surprise_with(weight), features, *fields)

    _, backward = jax.vjp(total, weight, features)
    kept = sum(leaf.size for leaf in jax.tree.leaves(backward))
    padded = 2 * 48 * features.shape[-1]
    assert kept <= padded + weight.size + 8


def test_features_of_less_precision_get_gradients_of_theirs():
    features, *fields = make_sample(16)
    weight = jnp.linspace(-1, 1, features.shape[-1])

    def total(features):
        return sum_over_objects(surprise_with(weight), features, *fields)

    slopes = jax.grad(total)(features.astype(jnp.bfloat16))
    assert slopes.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        slopes.astype(jnp.float32), jax.grad(total)(features), atol=0.02
    )


def test_forward_mode_agrees_with_the_gradient(forms):
    if forms == "cpu":
        pytest.skip("reverse mode only")
    features, *fields = make_sample(16)
    weight = jnp.linspace(-1, 1, features.shape[-1])

    def total(weight, features):
        return sum_over_objects(surprise_with(weight), features, *fields)

    arguments = weight, features
    gradient = jax.grad(total, argnums=(0, 1))(*arguments)
    change = jnp.cos(weight), jnp.sin(features)
    _, slope = jax.jvp(total, arguments, change)
    expected = sum((g * c).sum() for g, c in zip(gradient, change, strict=True))
    np.testing.assert_allclose(slope, expected, rtol=1e-5)
