"""Convolution over NHWC, with gradients that the CPU computes well.

Everywhere but on the CPU this is the compiler's own convolution and its own gradient.
On the CPU the compiler's gradients take three times as long as they need to; the forms
here are those that docs/performance.md measures. The choice is made when a program is
lowered, for the platform it is lowered for.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from .winograd import winograd_conv, winograd_kernel_gradient


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv2d(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Convolve (B, H, W, C) with (k, k, C, K), padded by k // 2, k odd.

    Differentiable once, in reverse.

    Returns:
      (B, ceil(H / stride), ceil(W / stride), K).
    """
    if _suits_winograd(x.shape, kernel.shape, stride, x.dtype):
        return lax.platform_dependent(
            x, kernel, cpu=jax.jit(winograd_conv), default=_convolve
        )
    return _convolve(x, kernel, stride)


def _convolve(x, kernel, stride=1):
    size = kernel.shape[0]
    if size == 1:
        # A matrix product: the same to GPU and TPU, and five times faster on the CPU.
        x = x[:, ::stride, ::stride]
        return lax.dot_general(x, kernel[0, 0], (((3,), (0,)), ((), ())))
    pad = (size // 2, size // 2)
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        (pad, pad),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _suits_winograd(shape, kernel_shape, stride, dtype) -> bool:
    """Whether the transforms cost less than the multiplications they save."""
    batch, height, width, _ = shape
    size, _, channels_in, channels_out = kernel_shape
    return (
        size == 3
        and stride == 1
        and dtype == jnp.float32
        and min(channels_in, channels_out) >= 64
        and batch * height * width >= 1024
    )


def _forward(x, kernel, stride):
    return conv2d(x, kernel, stride), (x, kernel)


def _backward(stride, residuals, dy):
    x, kernel = residuals
    return lax.platform_dependent(
        x,
        kernel,
        dy,
        cpu=jax.jit(functools.partial(_gradients_on_cpu, stride)),
        default=functools.partial(_gradients, stride),
    )


conv2d.defvjp(_forward, _backward)


def _gradients(stride, x, kernel, dy):
    return jax.vjp(functools.partial(_convolve, stride=stride), x, kernel)[1](dy)


def _gradients_on_cpu(stride, x, kernel, dy):
    size = kernel.shape[0]
    if size == 1:
        return _pointwise_gradients(x, kernel, dy, stride)
    if _suits_winograd(x.shape, kernel.shape, stride, x.dtype):
        mirrored = kernel[::-1, ::-1].swapaxes(2, 3)
        return winograd_conv(dy, mirrored), winograd_kernel_gradient(x, dy)
    if size == 3 and stride == 2:
        return _strided_gradients(x, kernel, dy)
    return _gradients(stride, x, kernel, dy)


def _pointwise_gradients(x, kernel, dy, stride):
    """The gradients of a 1x1 convolution."""
    dx = lax.dot_general(dy, kernel[0, 0], (((3,), (1,)), ((), ())))
    if stride > 1:
        holes = [
            (0, size - (stride * (small - 1) + 1), stride - 1)
            for size, small in zip(x.shape[1:3], dy.shape[1:3], strict=True)
        ]
        zero = jnp.zeros((), dx.dtype)
        dx = lax.pad(dx, zero, [(0, 0, 0), *holes, (0, 0, 0)])
    x = x[:, ::stride, ::stride].reshape(-1, x.shape[-1])
    dkernel = _product_over_rows(x, dy.reshape(-1, dy.shape[-1]))
    return dx, dkernel[None, None]


def _product_over_rows(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return a' b for a (N, I) and b (N, J), by way of the smaller one's transpose.

    The compiler would transpose one of them inside the fusion that computes it, element
    by element and against the grain of memory; a copy of its own is cheap.
    """
    if a.shape[1] <= b.shape[1]:
        return lax.optimization_barrier(a.T) @ b
    return (lax.optimization_barrier(b.T) @ a).T


def _strided_gradients(x, kernel, dy):
    """The gradients of a 3x3 convolution with stride 2, without dilated zeros.

    An output p takes, along each axis, the inputs 2p - 1, 2p and 2p + 1 by the taps
    0, 1 and 2. So an even input 2p is seen by tap 1 of p alone, an odd one, 2p + 1, by
    tap 2 of p and tap 0 of p + 1.
    """
    _, height, width, channels = x.shape
    batch, rows, columns, _ = dy.shape
    ends = ((0, 0), (0, 1), (0, 1), (0, 0))
    padded = jnp.pad(dy, ends)

    def tap_product(tap_i, tap_j, shift_i, shift_j):
        part = padded[:, shift_i : shift_i + rows, shift_j : shift_j + columns]
        return lax.dot_general(part, kernel[tap_i, tap_j], (((3,), (1,)), ((), ())))

    taps = (((1, 0),), ((2, 0), (0, 1)))  # for even and odd inputs: (tap, shift)
    parity_rows = []
    for row_taps in taps:
        parities = [
            sum(tap_product(i, j, di, dj) for i, di in row_taps for j, dj in some)
            for some in taps
        ]
        parity_rows.append(jnp.stack(parities, axis=3))
    dx = jnp.stack(parity_rows, axis=2).reshape(batch, 2 * rows, 2 * columns, channels)

    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    flat = dy.reshape(-1, dy.shape[-1])
    dkernel = [
        _product_over_rows(
            x[:, i : i + height : 2, j : j + width : 2].reshape(-1, channels), flat
        )
        for i in range(3)
        for j in range(3)
    ]
    return dx[:, :height, :width], jnp.stack(dkernel).reshape(kernel.shape)
