"""Convolution over NHWC."""

from jaxtyping import Float

from .arrays import Array
from .forms import pick
from .plain_conv import conv2d as plain_conv2d


def conv2d(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "k k C K"],
    stride: int = 1,
    out_dtype=None,
) -> Float[Array, "B 1+(H-1)//{stride} 1+(W-1)//{stride} K"]:
    """Convolve (B, H, W, C) with (k, k, C, K), padded by k // 2, k odd.

    On GPU and TPU this is the compiler's own convolution and its own gradient; the form
    for CPUs has no forward-mode derivative.

    Args:
      x: (B, H, W, C).
      kernel: (k, k, C, K), of the dtype of `x`.
      stride: pixels of `x` from one output to the next.
      out_dtype: of the result; None: that of `x`. float32 are the sums of the products
        as they are, which bfloat16 operands are summed in anyhow: nothing is computed
        in another way, the result is just not rounded. The gradient of the result is
        rounded to the dtype of `x`, as it would have been.

    Returns:
      (B, ceil(H / stride), ceil(W / stride), K).
    """
    out_dtype = x.dtype if out_dtype is None else out_dtype
    return pick("conv2d", plain_conv2d)(x, kernel, stride, out_dtype)
