"""Repetition by the matrix unit, for TPUs.

A TPU keeps the last two dimensions of an array in tiles, where repetition along one of
them moves each number by itself, forward and backward; a product with zeros and ones
does the same four times faster (docs/chips.md).
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Integer

from .arrays import Array

# Exact in every float type, and for the class ids of any data set.
_EXACT = lax.Precision.HIGHEST


def upsample(
    x: Float[Array, "B H W C"], size: tuple[int, int]
) -> Float[Array, "B {size[0]} {size[1]} C"]:
    """See `ops.repetition`; columns are repeated by a product."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None], (batch, height, 2, width, channels))
    x = x.reshape(batch, 2 * height, width, channels)[:, : size[0]]
    copies = jnp.repeat(jnp.eye(width, dtype=x.dtype), 2, axis=1)[:, : size[1]]
    return jnp.einsum("bhwc,wv->bhvc", x, copies, precision=_EXACT)


def repeat_labels(
    labels: Integer[Array, "B P A"], count: int
) -> Integer[Array, "B P A*{count}"]:
    """See `ops.repetition`."""
    copies = jnp.repeat(jnp.eye(labels.shape[-1]), count, axis=1)
    spread = jnp.matmul(labels.astype(jnp.float32), copies, precision=_EXACT)
    return spread.astype(labels.dtype)
