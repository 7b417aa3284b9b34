"""Repetition: a map of twice the size, and labels once for each class."""

import jax.numpy as jnp
from jaxtyping import Float, Integer

from .arrays import Array
from .forms import pick


def upsample(
    x: Float[Array, "B H W C"], size: tuple[int, int]
) -> Float[Array, "B {size[0]} {size[1]} C"]:
    """Double (B, H, W, C) by repetition, cropped to `size`: each side 2n or 2n - 1.

    For these sizes it is torch's nearest interpolation to `size`:
    floor(i * n / (2n - 1)) = floor(i / 2) for every i < 2n - 1.

    Raises:
      ValueError: `size` is neither of these.
    """
    _, height, width, _ = x.shape
    if (size[0] + 1) // 2 != height or (size[1] + 1) // 2 != width:
        raise ValueError(f"cannot double a map of {height}x{width} to {size}")
    return pick("upsample", _upsample)(x, size)


def _upsample(x, size):
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(
        x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels)
    ).reshape(batch, 2 * height, 2 * width, channels)
    return x[:, : size[0], : size[1]]


def repeat_labels(
    labels: Integer[Array, "B P A"], count: int
) -> Integer[Array, "B P A*{count}"]:
    """Repeat each label of (B, P, A) `count` times: (B, P, A * count).

    >>> repeat_labels(jnp.array([[[7, -1]]]), 2).tolist()
    [[[7, 7, -1, -1]]]
    """
    return pick("repeat_labels", _repeat_labels)(labels, count)


def _repeat_labels(labels, count):
    return jnp.repeat(labels, count, axis=-1)
