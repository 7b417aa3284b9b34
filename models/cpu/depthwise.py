"""Depthwise 3x3 convolution for the CPU: nine shifted products, in one pass.

The compiler's own convolution with as many groups as channels takes up to eighty times
as long here, its gradient twenty; docs/performance.md has the figures.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

TAPS = [(i, j) for i in range(3) for j in range(3)]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def depthwise_conv(stride: int, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """See `ops.depthwise.depthwise_conv`."""
    _, height, width, _ = x.shape
    precise = _precise(x.dtype)
    padded = _padded(x)
    total = sum(
        padded[:, i : i + height : stride, j : j + width : stride].astype(precise)
        * kernel[i, j, 0].astype(precise)
        for i, j in TAPS
    )
    return total.astype(x.dtype)


def _forward(stride, x, kernel):
    return depthwise_conv(stride, x, kernel), (x, kernel)


def _backward(stride, residuals, dy):
    x, kernel = residuals
    if stride == 1:  # the same with the kernel turned round
        dx = depthwise_conv(1, dy, kernel[::-1, ::-1])
    else:
        dx = _spread_gradient(stride, x, kernel, dy)
    return dx, _kernel_gradient(stride, x, dy).astype(kernel.dtype)


depthwise_conv.defvjp(_forward, _backward)


def _spread_gradient(stride, x, kernel, dy):
    """Return the gradient of x: each tap's share goes back to where it was read."""
    batch, height, width, channels = x.shape
    precise = _precise(x.dtype)
    rows, columns = stride * (dy.shape[1] - 1) + 1, stride * (dy.shape[2] - 1) + 1
    zero = jnp.zeros((), precise)
    total = sum(
        lax.pad(
            dy.astype(precise) * kernel[i, j, 0].astype(precise),
            zero,
            (
                (0, 0, 0),
                (i, height + 2 - i - rows, stride - 1),
                (j, width + 2 - j - columns, stride - 1),
                (0, 0, 0),
            ),
        )
        for i, j in TAPS
    )
    return total[:, 1:-1, 1:-1].astype(x.dtype)


def _kernel_gradient(stride, x, dy):
    """Return (3, 3, 1, C): products summed output row by output row, in the cache."""
    images, rows, columns, channels = dy.shape
    padded = _padded(x)
    precise = _precise(x.dtype)

    def row_sums(index):
        image, row = index // rows, index % rows
        size = (1, 3, padded.shape[2], channels)
        lines = lax.dynamic_slice(padded, (image, row * stride, 0, 0), size)[0]
        slopes = lax.dynamic_slice(dy, (image, row, 0, 0), (1, 1, columns, channels))
        slopes = slopes[0, 0].astype(precise)
        last = stride * (columns - 1) + 1
        products = [
            lines[i, j : j + last : stride].astype(precise) * slopes for i, j in TAPS
        ]
        # Written down first: a sum over rows of what is computed on the way goes
        # against the grain of memory.
        return lax.optimization_barrier(jnp.stack(products)).sum(axis=1)  # (9, C)

    total = lax.fori_loop(
        1, images * rows, lambda index, total: total + row_sums(index), row_sums(0)
    )
    return total.reshape(3, 3, 1, channels)


def _padded(x):
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _precise(dtype):
    return jnp.promote_types(dtype, jnp.float32)
