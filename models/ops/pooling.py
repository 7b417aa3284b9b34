"""Max pooling 3x3 with stride 2, the end of a ResNet's stem."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from .arrays import Array
from .forms import pick


def max_pool(x: Float[Array, "B H W C"]) -> Float[Array, "B (H+1)//2 (W+1)//2 C"]:
    """Return the maxima of 3x3 windows with stride 2 and padding 1.

    Of equal elements the first, row by row, takes the gradient, as in torch.

    Args:
      x: (B, H, W, C), a float type.

    Returns:
      (B, ceil(H / 2), ceil(W / 2), C).
    """
    return pick("max_pool", _max_pool)(x)


def _max_pool(x):
    window, strides = (1, 3, 3, 1), (1, 2, 2, 1)
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)
