"""Depthwise convolution and dense pooling, all forms beside slow NumPy sums."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_arrays import as_float32, assert_close, random_arrays

from models.cpu import dense_pooling as cpu_dense_pooling
from models.cpu import depthwise as cpu_depthwise
from models.ops import depthwise
from models.ops.forms import NAMES, use_forms

CONVOLUTIONS = {"cpu": cpu_depthwise.depthwise_conv, "default": depthwise.plain_conv}
POOLS = {"cpu": cpu_dense_pooling.dense_max_pool, "default": depthwise.plain_pool}


def slow_conv(x, kernel, stride):
    """Return the convolution of (B, H, W, C) in loops over places and taps."""
    batch, height, width, channels = x.shape
    y = np.zeros((batch, -(-height // stride), -(-width // stride), channels))
    for _, p, q, i, j in np.ndindex(1, *y.shape[1:3], 3, 3):
        row, column = p * stride + i - 1, q * stride + j - 1
        if 0 <= row < height and 0 <= column < width:
            y[:, p, q] += x[:, row, column] * kernel[i, j, 0]
    return y


def slow_gradients(x, kernel, dy, stride):
    dx, dkernel = np.zeros_like(x), np.zeros_like(kernel)
    for p, q, i, j in np.ndindex(*dy.shape[1:3], 3, 3):
        row, column = p * stride + i - 1, q * stride + j - 1
        if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
            dx[:, row, column] += dy[:, p, q] * kernel[i, j, 0]
            dkernel[i, j, 0] += (dy[:, p, q] * x[:, row, column]).sum(0)
    return dx, dkernel


@pytest.mark.parametrize("form", CONVOLUTIONS)
@pytest.mark.parametrize(
    ("shape", "stride"),
    [((2, 5, 6, 3), 1), ((2, 5, 6, 3), 2), ((1, 6, 1, 2), 2), ((1, 1, 4, 2), 1)],
)
def test_it_is_the_sum_over_taps_and_so_are_its_gradients(form, shape, stride):
    x, kernel = random_arrays(shape, (3, 3, 1, shape[-1]))
    expected = slow_conv(x, kernel, stride)
    (dy,) = random_arrays(expected.shape)

    @jax.jit
    def run(x, kernel, dy):
        convolve = functools.partial(CONVOLUTIONS[form], stride)
        y, backward = jax.vjp(convolve, x, kernel)
        return y, backward(dy)

    y, gradients = run(*as_float32(x, kernel, dy))
    assert_close(y, expected)
    for actual, slow in zip(
        gradients, slow_gradients(x, kernel, dy, stride), strict=True
    ):
        assert_close(actual, slow)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_form_is_chosen_while_tracing(stride):
    def gradients(x, kernel):
        def total(x, kernel):
            return depthwise.depthwise_conv(x, kernel, stride).sum()

        return jax.grad(total, (0, 1))(x, kernel)

    shapes = [
        jax.ShapeDtypeStruct(shape, jnp.float32)
        for shape in ((2, 9, 8, 16), (3, 3, 1, 16))
    ]
    for name in NAMES:
        with use_forms(name):
            jaxpr = str(jax.make_jaxpr(gradients)(*shapes))
        assert ("conv_general_dilated" in jaxpr) == (name != "cpu"), name


@pytest.mark.parametrize("stride", [1, 2])
def test_bfloat16_is_summed_in_float32_and_rounded_once(stride):
    arrays = as_float32(*random_arrays((2, 6, 8, 4), (3, 3, 1, 4)))
    x, kernel = (array.astype(jnp.bfloat16) for array in arrays)
    y, backward = jax.vjp(lambda *a: depthwise.depthwise_conv(*a, stride), x, kernel)
    dx, dkernel = backward(jnp.ones_like(y))
    assert {y.dtype, dx.dtype, dkernel.dtype} == {jnp.dtype(jnp.bfloat16)}
    x, kernel = (np.asarray(array, float) for array in (x, kernel))
    rounding = {"rtol": 2**-8, "atol": 1e-6}
    np.testing.assert_allclose(
        y.astype(jnp.float32), slow_conv(x, kernel, stride), **rounding
    )
    slow_dx, slow_dkernel = slow_gradients(x, kernel, np.ones(y.shape), stride)
    np.testing.assert_allclose(dx.astype(jnp.float32), slow_dx, **rounding)
    np.testing.assert_allclose(dkernel.astype(jnp.float32), slow_dkernel, **rounding)


@pytest.mark.parametrize(
    ("kernel", "stride"), [((3, 3, 2, 2), 1), ((1, 1, 1, 2), 1), ((3, 3, 1, 2), 3)]
)
def test_other_kernels_and_strides_are_refused(kernel, stride):
    with pytest.raises(ValueError, match="depthwise convolution of 2 channels"):
        depthwise.depthwise_conv(jnp.ones((1, 4, 4, 2)), jnp.ones(kernel), stride)


@pytest.mark.parametrize("form", POOLS)
@pytest.mark.parametrize("shape", [(2, 4, 5, 2), (1, 1, 3, 1)])
def test_dense_pooling_gives_the_gradient_to_the_first_of_equals(form, shape):
    rng = np.random.default_rng(0)
    x = rng.integers(-2, 3, shape).astype(np.float32)  # many ties
    dy = rng.integers(1, 9, shape).astype(np.float32)
    expected, dx = np.zeros_like(x), np.zeros_like(x)
    for b, p, q, c in np.ndindex(shape):
        rows = range(max(p - 1, 0), min(p + 2, shape[1]))
        columns = range(max(q - 1, 0), min(q + 2, shape[2]))
        places = [(i, j) for i in rows for j in columns]
        first = max(places, key=lambda place: x[b, *place, c])  # max keeps the first
        expected[b, p, q, c] = x[b, *first, c]
        dx[b, *first, c] += dy[b, p, q, c]
    y, backward = jax.vjp(POOLS[form], jnp.asarray(x))
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(backward(jnp.asarray(dy))[0], dx)
    np.testing.assert_array_equal(depthwise.dense_max_pool(jnp.asarray(x)), expected)
