"""Gradients of kernels, summed block by block, beside NumPy's sums over everything."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec
from reference_arrays import as_float32, assert_close, random_arrays

from models.cpu import kernel_gradients
from models.cpu.kernel_gradients import product_over_rows, strided_kernel_gradient


@pytest.mark.parametrize(
    "rows",
    [1, 4, 11, 12, 30],  # the last: one block and a rest
)
@pytest.mark.parametrize("columns", [(2, 5), (5, 2)])
def test_a_product_over_rows_is_the_same_in_any_blocks(rows, columns, monkeypatch):
    monkeypatch.setattr(kernel_gradients, "_ROWS", rows)
    a, b = random_arrays((23, columns[0]), (23, columns[1]))
    assert_close(product_over_rows(*as_float32(a, b)), a.T @ b)


def slow_kernel_gradient(x, dy, size, stride):
    half = size // 2
    x = np.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
    gradient = np.zeros((size, size, x.shape[-1], dy.shape[-1]))
    for b, i, j in np.ndindex(dy.shape[:3]):
        patch = x[b, i * stride :, j * stride :][:size, :size]
        gradient += patch[..., None] * dy[b, i, j]
    return gradient


@pytest.mark.parametrize(
    ("size", "stride", "shape"),
    [
        (3, 2, (2, 12, 7, 3)),
        (3, 2, (1, 13, 12, 2)),  # seven lines: bands of 1 or 7
        (7, 2, (2, 12, 9, 3)),
        (5, 3, (1, 16, 10, 2)),
    ],
)
@pytest.mark.parametrize("band", [1, 500, 10**6])  # a line, some, a whole image
def test_a_strided_gradient_is_the_sum_over_patches(
    size, stride, shape, band, monkeypatch
):
    monkeypatch.setattr(kernel_gradients, "_BAND", band)
    height, width = (-(-side // stride) for side in shape[1:3])
    x, dy = random_arrays(shape, (shape[0], height, width, 4))
    gradient = strided_kernel_gradient(stride, size, *as_float32(x, dy))
    assert_close(gradient, slow_kernel_gradient(x, dy, size, stride))


def test_bfloat16_is_summed_in_float32(monkeypatch):
    # In bfloat16, 256 + 1 is 256.
    monkeypatch.setattr(kernel_gradients, "_ROWS", 1)
    monkeypatch.setattr(kernel_gradients, "_BAND", 1)
    ones = jnp.ones((1, 1000, 1, 1), jnp.bfloat16)
    rows = product_over_rows(ones.reshape(-1, 1), ones.reshape(-1, 1))
    assert rows.dtype == jnp.bfloat16
    assert rows == 1000
    taps = strided_kernel_gradient(2, 3, ones, ones[:, ::2])
    assert taps.dtype == jnp.bfloat16
    assert taps[1, 1] == 500


def test_the_sums_run_over_blocks_on_every_device_of_a_mesh(monkeypatch):
    monkeypatch.setattr(kernel_gradients, "_ROWS", 4)
    monkeypatch.setattr(kernel_gradients, "_BAND", 1)
    x, dy = random_arrays((2, 8, 8, 3), (2, 4, 4, 5))
    data = PartitionSpec("data")

    @jax.jit
    @jax.shard_map(
        mesh=Mesh(jax.devices()[:2], "data"),
        in_specs=(data, data),
        out_specs=PartitionSpec(),
        check_vma=True,
    )
    def total(x, dy):
        rows = product_over_rows(x[:, ::2, ::2].reshape(-1, 3), dy.reshape(-1, 5))
        taps = strided_kernel_gradient(2, 3, x, dy)
        return jax.lax.psum((rows, taps), "data")

    rows, taps = total(*as_float32(x, dy))
    assert_close(rows, x[:, ::2, ::2].reshape(-1, 3).T @ dy.reshape(-1, 5))
    assert_close(taps, slow_kernel_gradient(x, dy, 3, 2))
