"""Gradients of convolution kernels for the CPU: products summed over positions.

The compiler fuses whatever computed the activations, a whole chain of normalised
residual blocks, into the transpose that such a product needs, and computes it again
there, against the grain of memory. What a loop reads it has to write down first; so
these products are summed block by block, and a block is transposed in the cache. The
sums are at least float32, whatever the operands are.
"""

import jax
import jax.numpy as jnp
from jax import lax

from .winograd import largest_divisor

# Positions that a block of `product_over_rows` has.
_ROWS = 1024
# Elements that the patches of a band may have, 4 MiB of float32.
_BAND = 2**20


def product_over_rows(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return a' b for a (N, I) and b (N, J)."""
    if a.shape[1] > b.shape[1]:  # the smaller one is transposed
        return product_over_rows(b, a).T
    rows = min(_ROWS, len(a))
    first = rows + len(a) % rows

    def product(start, count):
        block = lax.dynamic_slice_in_dim(a, start, count)
        other = lax.dynamic_slice_in_dim(b, start, count)
        return _multiply(lax.optimization_barrier(block.T), other)

    # The first block starts the sum, so that the carry has its type in every mesh.
    total = lax.fori_loop(
        0,
        (len(a) - first) // rows,
        lambda i, total: total + product(first + i * rows, rows),
        product(0, first),
    )
    return total.astype(a.dtype)


def strided_kernel_gradient(
    stride: int, size: int, x: jax.Array, dy: jax.Array
) -> jax.Array:
    """Return the gradient (k, k, C, K) of the kernel of a strided convolution.

    Patches of a band of output rows are put together, multiplied and forgotten. A patch
    is made of `size` whole lines of `size` neighbours.

    Args:
      stride: of the convolution.
      size: k, odd; the convolution was padded by k // 2.
      x: (B, H, W, C), its input.
      dy: (B, h, w, K), the gradient of its output.
    """
    images, height, width, channels_out = dy.shape
    area = size * size * x.shape[-1]
    rows = largest_divisor(height, _BAND // (width * area))
    lines = stride * (rows - 1) + size  # of the input that a band reads

    half = size // 2
    x = jnp.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
    span = stride * (width - 1) + 1
    neighbours = [x[:, :, tap : tap + span : stride] for tap in range(size)]
    x = lax.optimization_barrier(jnp.concatenate(neighbours, axis=-1))

    def product(band):
        image, row = band // (height // rows), band % (height // rows) * rows
        block = lax.dynamic_slice(
            x, (image, row * stride, 0, 0), (1, lines, width, x.shape[3])
        )[0]
        taps = [
            block[tap : tap + stride * (rows - 1) + 1 : stride] for tap in range(size)
        ]
        patches = jnp.concatenate(taps, axis=-1).reshape(-1, area)
        slopes = lax.dynamic_slice(
            dy, (image, row, 0, 0), (1, rows, width, channels_out)
        ).reshape(-1, channels_out)
        return _multiply(*lax.optimization_barrier((slopes.T, patches)))

    total = lax.fori_loop(
        1,
        images * (height // rows),
        lambda band, total: total + product(band),
        product(0),
    )
    return total.astype(x.dtype).T.reshape(size, size, -1, channels_out)


def _multiply(a: jax.Array, b: jax.Array) -> jax.Array:
    precise = jnp.promote_types(a.dtype, jnp.float32)
    return jnp.matmul(a, b, preferred_element_type=precise)
