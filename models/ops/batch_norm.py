"""Batch normalisation by the batch's own statistics."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Float32

from .arrays import Array
from .forms import pick


def batch_norm(
    x: Float[Array, "B H W C"],
    scale: Float32[Array, " C"],
    bias: Float32[Array, " C"],
    eps: float,
    axis_name: str | tuple[str, ...] | None,
) -> tuple[Float[Array, "B H W C"], Float32[Array, " C"], Float32[Array, " C"]]:
    """Normalise by the batch's own statistics, which take no gradient themselves.

    They are those of all replicas on `axis_name`, from the means of x and of x * x. In
    the gradient of x a replica's activations move every replica's loss; the gradients
    of scale and bias stay the replica's own.

    Args:
      x: (B, H, W, C).
      scale: (C,) float32.
      bias: (C,) float32.
      eps: added to the variance.
      axis_name: of the replicas, or several names; None: this one alone.

    Returns:
      y (B, H, W, C) in the dtype of x, mean (C,) and variance (C,) float32.
    """
    return pick("batch_norm", _batch_norm)(x, scale, bias, eps, axis_name)


def _batch_norm(x, scale, bias, eps, axis_name):
    x32 = x.astype(jnp.float32)
    moments = x32.mean((0, 1, 2)), (x32 * x32).mean((0, 1, 2))
    mean, square = moments if axis_name is None else lax.pmean(moments, axis_name)
    var = jnp.maximum(square - mean * mean, 0.0)
    factor = lax.rsqrt(var + eps) * scale
    y = x32 * factor + (bias - mean * factor)
    return y.astype(x.dtype), lax.stop_gradient(mean), lax.stop_gradient(var)
