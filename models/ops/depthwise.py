"""Depthwise convolution, and the maximum of each place's neighbourhood (NHWC).

Both look at 3x3 places of one channel. The CPU has forms of its own, `cpu/depthwise.py`
and `cpu/dense_pooling.py`; everywhere else these are the compiler's.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from .arrays import Array
from .forms import pick


def depthwise_conv(
    x: Float[Array, "B H W C"], kernel: Float[Array, "..."], stride: int = 1
) -> Float[Array, "B 1+(H-1)//{stride} 1+(W-1)//{stride} C"]:
    """Convolve each channel of (B, H, W, C) with a 3x3 kernel of its own, padded by 1.

    The form for CPUs is differentiable once, in reverse.

    Args:
      x: (B, H, W, C).
      kernel: (3, 3, 1, C), of the dtype of `x`.
      stride: pixels of `x` from one output to the next, 1 or 2.

    Returns:
      (B, ceil(H / stride), ceil(W / stride), C), of the dtype of `x`.

    Raises:
      ValueError: another kernel or stride.
    """
    if kernel.shape != (3, 3, 1, x.shape[-1]) or stride not in (1, 2):
        raise ValueError(
            f"a depthwise convolution of {x.shape[-1]} channels needs a kernel of "
            f"(3, 3, 1, {x.shape[-1]}) and a stride of 1 or 2, not {kernel.shape} and "
            f"{stride}"
        )
    return pick("depthwise_conv", plain_conv)(stride, x, kernel)


def plain_conv(stride, x, kernel):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def dense_max_pool(x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """Return the maxima of 3x3 windows around each place, with padding 1.

    Of equal elements the first, row by row, takes the gradient, as in torch.

    Args:
      x: (B, H, W, C), a float type.

    Returns:
      The same shape.
    """
    return pick("dense_max_pool", plain_pool)(x)


def plain_pool(x):
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    ones = (1, 1, 1, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), ones, padding)
