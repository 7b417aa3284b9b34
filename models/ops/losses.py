"""Losses of the heads, element by element, in float32.

They return one value an element; the head that owns the targets decides what is left
out and what the sum is divided by.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32

from .arrays import Array
from .focal import focal_loss, focal_slope
from .forms import pick


def sigmoid_focal_loss(
    logits: Float[Array, "*D"],
    targets: Bool[Array, "*D"],
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Float32[Array, "*D"]:
    """Return the focal loss of independent binary decisions (Lin et al., eq. 5).

    ``-alpha_t (1 - p_t) ** gamma log(p_t)``, see `ops.focal`. Only the logits are kept
    for the gradient; left to itself autodiff keeps four arrays of the size of the class
    scores, the largest activation of a one-stage detector.

    Args:
      logits: any shape.
      targets: bool, the same shape: True where the class is present.
      alpha: weight of positives; negatives weigh ``1 - alpha``.
      gamma: focusing parameter, >= 0.

    Returns:
      float32, the same shape.

    >>> sigmoid_focal_loss(jnp.zeros(2), jnp.array([True, False])).round(4).tolist()
    [0.043299999088048935, 0.12999999523162842]
    """
    form = pick("sigmoid_focal_loss", _sigmoid_focal_loss)
    return form(logits, targets, alpha, gamma)


# Without the barriers of `prevent_cse` the compiler fuses the slope with its readers.
@functools.partial(jax.checkpoint, static_argnums=(2, 3), prevent_cse=False)
@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _sigmoid_focal_loss(logits, targets, alpha, gamma):
    return focal_loss(logits, targets, alpha, gamma)


@_sigmoid_focal_loss.__wrapped__.defjvp
def _focal_tangent(alpha, gamma, primals, tangents):
    slope = focal_slope(*primals, alpha, gamma)
    return focal_loss(*primals, alpha, gamma), slope * tangents[0].astype(jnp.float32)


def smooth_l1(
    predictions: Float[Array, "*#D"], targets: Float[Array, "*#D"], beta: float = 0.0
) -> Float32[Array, "*#D"]:
    """Return ``d ** 2 / (2 beta)`` where |d| < beta, else ``|d| - beta / 2``.

    Fast R-CNN, eq. 3, with the place where the parabola becomes a line set free;
    ``beta=0`` is the plain L1 distance.

    Args:
      predictions: any shape.
      targets: the same shape.
      beta: where the parabola ends, >= 0.

    Returns:
      float32, the same shape.

    >>> smooth_l1(jnp.array([0.5, 3.0]), jnp.zeros(2), beta=1.0).tolist()
    [0.125, 2.5]
    """
    if beta < 0.0:
        raise ValueError(f"beta is {beta}: it must not be negative")
    difference = predictions.astype(jnp.float32) - targets.astype(jnp.float32)
    # Not jnp.abs: at 0 its slope is 1 in some versions of JAX; a hit should rest.
    distance = difference * jnp.sign(difference)
    if beta == 0.0:
        return distance
    return jnp.where(distance < beta, 0.5 * distance**2 / beta, distance - 0.5 * beta)
