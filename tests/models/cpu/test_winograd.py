"""Winograd's convolution and its gradients, beside slow sums over the taps."""

import jax
import jax.numpy as jnp
import pytest
from reference_arrays import (
    as_float32,
    assert_close,
    random_arrays,
    slow_conv,
    slow_gradients,
)

from models.cpu import winograd
from models.cpu.winograd import (
    winograd_conv,
    winograd_input_gradient,
    winograd_kernel_gradient,
)


@pytest.mark.parametrize("block", [1, 2**8, 2**20])
def test_winograd_does_not_depend_on_how_it_is_cut(block, monkeypatch):
    # By the line, by a few lines or images, and all at once.
    monkeypatch.setattr("models.cpu.winograd._BLOCK", block)
    monkeypatch.setattr("models.cpu.winograd._TILES", 1)
    x, kernel, dy = random_arrays((2, 5, 8, 2), (3, 3, 2, 3), (2, 5, 8, 3))
    assert_close(winograd_conv(*as_float32(x, kernel)), slow_conv(x, kernel))
    dx, dkernel = slow_gradients(x, kernel, dy)
    assert_close(winograd_input_gradient(*as_float32(kernel, dy)), dx)
    assert_close(winograd_kernel_gradient(*as_float32(x, dy)), dkernel)


def test_winograds_blocks_are_as_large_as_they_may_be(monkeypatch):
    # Five images would fit; four divide the batch.
    shape = (16, 14, 14, 256)
    monkeypatch.setattr("models.cpu.winograd._BLOCK", 5 * 16 * 7 * 7 * 256)
    x = jnp.zeros(shape)
    blocks = jax.eval_shape(winograd._Plan(shape).cut_input, x)
    assert blocks.shape == (4, 4, *shape[1:])
