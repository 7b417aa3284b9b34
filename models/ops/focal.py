"""The focal loss of binary decisions and its slope (Lin et al. 2017, equation 5).

``-alpha_t (1 - p_t) ** gamma log(p_t)``. With ``x`` the logit signed towards its target
and ``u = softplus(-x)`` this is ``alpha_t u exp(-gamma (x + u))``: one logarithm, two
exponentials, no subtraction that cancels, finite for every finite logit.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32

from .arrays import Array


def _terms(logits, targets, alpha, gamma):
    """Return the signed logits, their cross entropy and the weight of each."""
    signed = jnp.where(targets, logits, -logits).astype(jnp.float32)
    cross_entropy = jax.nn.softplus(-signed)
    weight = jnp.where(targets, alpha, 1.0 - alpha)
    return signed, cross_entropy, weight * jnp.exp(-gamma * (signed + cross_entropy))


def focal_loss(
    logits: Float[Array, "*D"], targets: Bool[Array, "*D"], alpha: float, gamma: float
) -> Float32[Array, "*D"]:
    """Return the loss of each decision, float32."""
    _, cross_entropy, weight = _terms(logits, targets, alpha, gamma)
    return weight * cross_entropy


def focal_slope(
    logits: Float[Array, "*D"], targets: Bool[Array, "*D"], alpha: float, gamma: float
) -> Float32[Array, "*D"]:
    """Return the derivative of each loss by its logit, float32."""
    signed, cross_entropy, weight = _terms(logits, targets, alpha, gamma)
    probability = jax.nn.sigmoid(signed)
    # d/dx of u exp(-gamma (x + u)), as du/dx = p - 1 and d(x + u)/dx = p.
    slope = weight * (probability - 1.0 - gamma * cross_entropy * probability)
    return jnp.where(targets, slope, -slope)
