"""Batch normalisation in its three modes, and convolution as a module."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.layers import BatchNorm, Conv
from models.ops.batch_norm import batch_norm
from models.ops.forms import use_forms

SHAPE = (4, 3, 5, 6)
EPS = 1e-5


@pytest.fixture(params=["cpu", "gpu"], autouse=True)
def forms(request):
    """Every test here runs for each form; a TPU's is that of GPUs."""
    with use_forms(request.param):
        yield request.param


def make_input(seed=0):
    values = np.random.default_rng(seed).normal(3.0, 2.0, SHAPE)
    return jnp.asarray(values, jnp.float32)


def slow_batch_norm(x, scale, bias):
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) / jnp.sqrt(var + EPS) * scale + bias


def test_normalisation_and_its_gradients_equal_the_formula():
    x, dy = make_input(), make_input(1)
    scale, bias = jnp.linspace(0.5, 2.0, 6), jnp.linspace(-1.0, 1.0, 6)
    y, backward = jax.vjp(lambda *args: batch_norm(*args, EPS, None)[0], x, scale, bias)
    expected, expected_backward = jax.vjp(slow_batch_norm, x, scale, bias)
    chex.assert_trees_all_close(y, expected, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(
        backward(dy), expected_backward(dy), rtol=1e-4, atol=1e-4
    )


def test_running_averages_are_torchs():
    x = np.asarray(make_input(), np.float64)
    norm = BatchNorm(6, mode="local")
    for _ in range(2):
        norm(jnp.asarray(x, jnp.float32), train=True)
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(norm.mean[...], 0.19 * mean, rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], 0.81 + 0.19 * var, rtol=1e-5)


def test_prediction_uses_the_running_averages_and_leaves_them():
    norm = BatchNorm(6)
    norm.mean[...], norm.var[...] = jnp.full(6, 3.0), jnp.full(6, 4.0)
    x = make_input()
    y = norm(x, train=False)
    np.testing.assert_allclose(y, (x - 3) / 2, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(norm.mean[...], 3.0)


def train(x, mode="synced", axis_name=None):
    """Return (y, running mean, running variance, gradient of x) of a fresh layer."""

    def loss(x):
        norm = BatchNorm(6, mode=mode, axis_name=axis_name)
        y = norm(x, train=True)
        return (y**3).sum(), (y, norm.mean[...], norm.var[...])

    gradient, results = jax.grad(loss, has_aux=True)(x)
    return *results, gradient


def train_on_replicas(x, mode, replicas=2):
    """Return the same four with x split over an axis of replicas."""
    parts = x.reshape(replicas, -1, *x.shape[1:])
    return jax.vmap(lambda x: train(x, mode, "data"), axis_name="data")(parts)


def test_synced_replicas_equal_one_large_batch():
    x = make_input()
    y, mean, var, gradient = train_on_replicas(x, "synced")
    expected_y, expected_mean, expected_var, expected_gradient = train(x)
    chex.assert_trees_all_close(y.reshape(SHAPE), expected_y, atol=1e-5)
    chex.assert_trees_all_close(
        gradient.reshape(SHAPE), expected_gradient, rtol=1e-3, atol=1e-4
    )
    for replica in range(2):
        chex.assert_trees_all_close(mean[replica], expected_mean, rtol=1e-5)
        chex.assert_trees_all_close(var[replica], expected_var, rtol=1e-5)


def test_local_replicas_normalise_alone_but_agree_on_the_averages():
    x = make_input()
    y, mean, var, gradient = train_on_replicas(x, "local")
    alone = [train(half) for half in x.reshape(2, -1, *SHAPE[1:])]
    for replica, (expected_y, _, _, expected_gradient) in enumerate(alone):
        chex.assert_trees_all_close(y[replica], expected_y, atol=1e-5)
        chex.assert_trees_all_close(
            gradient[replica], expected_gradient, rtol=1e-3, atol=1e-4
        )
        average_mean, average_var = ((alone[0][i] + alone[1][i]) / 2 for i in (1, 2))
        chex.assert_trees_all_close(mean[replica], average_mean, rtol=1e-5)
        chex.assert_trees_all_close(var[replica], average_var, rtol=1e-5)


def test_frozen_normalisation_is_a_constant_map_without_parameters():
    norm = BatchNorm(6, mode="frozen")
    assert not jax.tree.leaves(nnx.state(norm, nnx.Param))
    x = make_input()
    chex.assert_trees_all_equal(norm(x, train=True), norm(x, train=False))
    np.testing.assert_allclose(norm(x, train=True), x, rtol=1e-4)


@pytest.mark.parametrize(
    ("mode", "train"), [("synced", True), ("synced", False), ("frozen", True)]
)
def test_bfloat16_is_rounded_once(mode, train):
    """Every element is the nearest number to the exact value, in every mode."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(make_input(), jnp.bfloat16)
    exact = np.asarray(x, np.float64)
    mean, var = exact.mean((0, 1, 2)), exact.var((0, 1, 2))
    scale, bias = rng.uniform(0.5, 1.5, 6), rng.normal(0.0, 1.0, 6)
    norm = BatchNorm(6, mode=mode)
    norm.mean[...], norm.var[...] = jnp.float32(mean), jnp.float32(var)
    norm.scale[...], norm.bias[...] = jnp.float32(scale), jnp.float32(bias)
    exact = (exact - mean) / np.sqrt(var + EPS) * scale + bias
    y = norm(x, train=train)
    assert y.dtype == jnp.bfloat16
    error = np.abs(np.asarray(y, np.float64) - exact)
    # Half a step of an 8-bit significand, and float32's own error.
    assert (error <= 2.0**-9 * 2 ** np.ceil(np.log2(np.abs(exact))) + 2e-6).all()


def test_statistics_of_bfloat16_are_float32():
    norm = BatchNorm(6)
    y = norm(make_input().astype(jnp.bfloat16), train=True)
    assert y.dtype == jnp.bfloat16
    assert norm.mean[...].dtype == norm.var[...].dtype == jnp.float32


def test_a_constant_channel_gives_finite_values_and_gradients():
    chex.assert_tree_all_finite(train(jnp.full(SHAPE, 7.0)))


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="'batch'.*frozen.*local.*synced"):
        BatchNorm(6, mode="batch")


def test_a_convolution_computes_in_its_dtype_and_keeps_float32_weights():
    conv = Conv(6, 4, 3, use_bias=True, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    conv.bias[...] = jnp.arange(4.0)
    y = conv(jnp.zeros(SHAPE))
    assert y.dtype == jnp.bfloat16
    assert conv.kernel[...].dtype == jnp.float32
    np.testing.assert_array_equal(y[0, 0, 0].astype(jnp.float32), np.arange(4))
