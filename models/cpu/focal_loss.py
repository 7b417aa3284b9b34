"""The focal loss for the CPU: its slope is computed again in the backward pass."""

import functools

import jax

from ..ops.focal import focal_loss, focal_slope


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def sigmoid_focal_loss(logits, targets, alpha, gamma):
    """See `ops.losses`. Differentiable once, in reverse."""
    return focal_loss(logits, targets, alpha, gamma)


def _forward(logits, targets, alpha, gamma):
    return focal_loss(logits, targets, alpha, gamma), (logits, targets)


def _backward(alpha, gamma, residuals, cotangent):
    logits, targets = residuals
    gradient = cotangent * focal_slope(logits, targets, alpha, gamma)
    return gradient.astype(logits.dtype), None


sigmoid_focal_loss.defvjp(_forward, _backward)
