"""Convolution over NHWC, in forms that the CPU computes well.

The compiler's gradients take up to three times as long as they need to, and maps of a
few pixels thirty times; the forms here are those that docs/performance.md measures.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from ..ops.plain_conv import convolve, product
from .kernel_gradients import product_over_rows, strided_kernel_gradient
from .winograd import (
    winograd_conv,
    winograd_input_gradient,
    winograd_kernel_gradient,
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv2d(x: jax.Array, kernel: jax.Array, stride: int, out_dtype) -> jax.Array:
    """Convolve; see `ops.conv`. Differentiable once, in reverse."""
    forward, _ = _forms(x.shape, kernel.shape, stride, x.dtype)
    return forward(stride, out_dtype, x, kernel)


def _forward(x, kernel, stride, out_dtype):
    return conv2d(x, kernel, stride, out_dtype), (x, kernel)


def _backward(stride, out_dtype, residuals, dy):
    del out_dtype
    x, kernel = residuals
    _, backward = _forms(x.shape, kernel.shape, stride, x.dtype)
    return backward(stride, x, kernel, dy.astype(x.dtype))


conv2d.defvjp(_forward, _backward)


def _forms(shape, kernel_shape, stride, dtype):
    """Return the forward and backward functions for these shapes.

    The bounds are where the forms cross in the tables of docs/performance.md.
    """
    batch, height, width, channels = shape
    size, _, _, channels_out = kernel_shape
    positions = batch * -(-height // stride) * -(-width // stride)
    if size == 1:
        return convolve, _pointwise_gradients
    fits_cache = positions * size**2 * channels <= 2**23
    if stride > 1:
        if size == 3 and fits_cache:
            return _patch_product, _patch_gradients
        return convolve, _strided_gradients
    if size != 3:
        return convolve, _gradients
    wide = min(channels, channels_out) >= 64
    if wide and positions >= 1024 and dtype == jnp.float32:
        return _winograd, _winograd_gradients
    if fits_cache and positions < 1024:
        return _patch_product, _patch_gradients
    return convolve, _gradients


def _gradients(stride, x, kernel, dy):
    plain = functools.partial(convolve, stride, x.dtype)
    return jax.vjp(plain, x, kernel)[1](dy)


# 1x1: a matrix product.


def _pointwise_gradients(stride, x, kernel, dy):
    dx = lax.dot_general(dy, kernel[0, 0], (((3,), (1,)), ((), ())))
    if stride > 1:
        dx = _spread(dx, x.shape, stride, (0, 0))
    x = x[:, ::stride, ::stride].reshape(-1, x.shape[-1])
    dkernel = product_over_rows(x, dy.reshape(-1, dy.shape[-1]))
    return dx, dkernel[None, None]


def _spread(y, shape, stride, offset):
    """Put (B, h, w, C) into zeros of `shape`, from `offset` on, `stride` apart."""
    space = [
        (start, size - start - (stride * (small - 1) + 1), stride - 1)
        for start, size, small in zip(offset, shape[1:3], y.shape[1:3], strict=True)
    ]
    return lax.pad(y, jnp.zeros((), y.dtype), [(0, 0, 0), *space, (0, 0, 0)])


# 3x3 on small maps or with a stride: a matrix product with patches.


@functools.partial(jax.jit, static_argnums=(0, 1))
def _patch_product(stride, out_dtype, x, kernel):
    patches = _patches(stride, x)  # (B, h, w, 9 C)
    return product(patches, kernel.reshape(-1, kernel.shape[-1]), out_dtype)


@functools.partial(jax.jit, static_argnums=0)
def _patch_gradients(stride, x, kernel, dy):
    batch, height, width, channels = x.shape
    flat_kernel = kernel.reshape(-1, kernel.shape[-1])
    flat_dy = dy.reshape(-1, dy.shape[-1])
    dpatches = lax.optimization_barrier(flat_dy @ flat_kernel.T)
    dpatches = dpatches.reshape(*dy.shape[:3], 9, channels)
    padded = (batch, height + 2, width + 2, channels)
    dx = sum(
        _spread(dpatches[:, :, :, tap], padded, stride, divmod(tap, 3))
        for tap in range(9)
    )
    patches = _patches(stride, x).reshape(-1, 9 * channels)
    dkernel = product_over_rows(patches, flat_dy).reshape(kernel.shape)
    return dx[:, 1:-1, 1:-1], dkernel


def _patches(stride, x):
    """Return the 3x3 neighbours of each output: (B, h, w, 9 C)."""
    _, height, width, _ = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = [
        x[:, i : i + height : stride, j : j + width : stride]
        for i in range(3)
        for j in range(3)
    ]
    return lax.optimization_barrier(jnp.concatenate(taps, axis=-1))


# Any other with a stride: the compiler's own but for the kernel's gradient.


@functools.partial(jax.jit, static_argnums=0)
def _strided_gradients(stride, x, kernel, dy):
    _, backward = jax.vjp(lambda x: convolve(stride, x.dtype, x, kernel), x)
    dkernel = strided_kernel_gradient(stride, len(kernel), x, dy)
    return *backward(dy), dkernel


# 3x3 on large maps: Winograd's tiles.


@functools.partial(jax.jit, static_argnums=(0, 1))
def _winograd(stride, out_dtype, x, kernel):
    del stride
    return winograd_conv(x, kernel).astype(out_dtype)


@functools.partial(jax.jit, static_argnums=0)
def _winograd_gradients(stride, x, kernel, dy):
    del stride
    return winograd_input_gradient(kernel, dy), winograd_kernel_gradient(x, dy)
