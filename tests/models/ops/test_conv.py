"""Convolutions, their gradients and pooling, beside slow NumPy sums over the taps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_arrays import (
    as_float32,
    assert_close,
    random_arrays,
    slow_conv,
    slow_gradients,
    slow_taps,
)

from models.ops.conv import conv2d
from models.ops.forms import NAMES, use_forms
from models.ops.pooling import max_pool

# On a GPU and a TPU both ops are the same.
FORMS = pytest.mark.parametrize("forms", ["cpu", "gpu"])


@FORMS
@pytest.mark.parametrize(
    ("size", "stride", "shape", "channels_out"),
    [
        (1, 1, (2, 5, 6, 3), 4),
        (1, 2, (2, 5, 6, 4), 3),
        (3, 1, (2, 5, 6, 3), 4),
        (3, 2, (2, 5, 6, 3), 4),  # odd and even sides
        (3, 2, (2, 6, 1, 4), 3),
        (7, 2, (1, 9, 8, 3), 2),
        (3, 1, (2, 17, 32, 64), 64),  # large enough for Winograd's form
        (3, 2, (4, 127, 128, 64), 4),  # too large for patches of all of it
    ],
)
def test_a_convolution_and_its_gradients_are_the_sums_over_taps(
    size, stride, shape, channels_out, forms
):
    x, kernel = random_arrays(shape, (size, size, shape[-1], channels_out))
    expected = slow_conv(x, kernel, stride)
    (dy,) = random_arrays(expected.shape)

    @jax.jit
    def run(x, kernel, dy):
        y, backward = jax.vjp(lambda x, kernel: conv2d(x, kernel, stride), x, kernel)
        return y, backward(dy)

    with use_forms(forms):
        y, gradients = run(*as_float32(x, kernel, dy))
    assert_close(y, expected)
    expected = slow_gradients(x, kernel, dy, stride)
    for actual, slow in zip(gradients, expected, strict=True):
        assert_close(actual, slow)


def test_only_the_form_for_cpus_is_not_the_compilers_own_convolution():
    def gradients(x, kernel):
        return jax.grad(lambda *args: conv2d(*args).sum(), (0, 1))(x, kernel)

    arguments = jnp.zeros((1, 32, 32, 64)), jnp.zeros((3, 3, 64, 64))
    for name in NAMES:
        with use_forms(name):
            program = jax.jit(gradients).lower(*arguments).as_text()
        assert ("stablehlo.convolution" in program) == (name != "cpu"), name


@FORMS
@pytest.mark.parametrize(
    ("size", "shape"),
    [
        (1, (2, 9, 8, 16)),
        (3, (2, 9, 8, 16)),  # by patches
        (3, (1, 33, 40, 16)),  # by the compiler
    ],
)
def test_products_of_bfloat16_are_summed_and_given_in_float32(size, shape, forms):
    arrays = as_float32(*random_arrays(shape, (size, size, 16, 4)))
    x, kernel = (array.astype(jnp.bfloat16) for array in arrays)
    expected = slow_conv(*(np.asarray(array, float) for array in (x, kernel)))
    (dy,) = as_float32(*random_arrays(expected.shape))

    @jax.jit
    def run(x, kernel, dy):
        y, backward = jax.vjp(lambda *a: conv2d(*a, 1, jnp.float32), x, kernel)
        rounded, expected_backward = jax.vjp(conv2d, x, kernel)
        return y, backward(dy), rounded, expected_backward(dy.astype(jnp.bfloat16))

    with use_forms(forms):
        y, gradients, rounded, expected_gradients = run(x, kernel, dy)
    assert y.dtype == jnp.float32
    assert_close(y, expected)
    # Only the result is another one: the gradients are bit for bit the same.
    np.testing.assert_array_equal(y.astype(jnp.bfloat16), rounded)
    for gradient, same in zip(gradients, expected_gradients, strict=True):
        assert gradient.dtype == jnp.bfloat16
        np.testing.assert_array_equal(gradient, same)


def test_bfloat16_stays_bfloat16():
    x, kernel = as_float32(*random_arrays((1, 32, 32, 64), (3, 3, 64, 64)))
    x, kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    y = conv2d(x, kernel)
    assert y.dtype == jnp.bfloat16
    reference = slow_conv(np.asarray(x, float), np.asarray(kernel, float))
    np.testing.assert_allclose(
        y.astype(jnp.float32), reference, rtol=0, atol=0.01 * abs(reference).max()
    )


def slow_max_pool_gradient(x, dy):
    dx = np.zeros_like(x)
    for b, p, q, c in np.ndindex(dy.shape):
        rows = range(max(2 * p - 1, 0), min(2 * p + 2, x.shape[1]))
        columns = range(max(2 * q - 1, 0), min(2 * q + 2, x.shape[2]))
        places = [(i, j) for i in rows for j in columns]
        first = max(places, key=lambda place: x[b, *place, c])  # max keeps the first
        dx[b, *first, c] += dy[b, p, q, c]
    return dx


@FORMS
@pytest.mark.parametrize("shape", [(2, 6, 7, 2), (1, 5, 4, 3), (1, 1, 1, 1)])
def test_max_pool_gives_the_gradient_to_the_first_of_equals(shape, forms):
    rng = np.random.default_rng(0)
    x = rng.integers(-2, 3, shape).astype(np.float32)  # many ties
    with use_forms(forms):
        y, backward = jax.vjp(max_pool, jnp.asarray(x))
    windows = [part for _, part in slow_taps(x + 9, 3, 2)]  # above the padding's 0
    np.testing.assert_array_equal(y, np.max(windows, axis=0) - 9)
    dy = rng.integers(1, 9, y.shape).astype(np.float32)
    np.testing.assert_array_equal(backward(dy)[0], slow_max_pool_gradient(x, dy))
