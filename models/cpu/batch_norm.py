"""Batch normalisation for the CPU, with its gradient written out."""

import functools

import jax
import jax.numpy as jnp
from jax import lax


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def batch_norm(x, scale, bias, eps, axis_name):
    """Normalise x (B, H, W, C) by its own statistics; return (y, mean, variance).

    The statistics are those of all replicas on `axis_name`, from the means of x and of
    x * x, and take no gradient. The backward pass is written out because automatic
    differentiation walks over the activations several times more. Its two sums are
    averaged over the replicas as well: a replica's activations move every replica's
    loss. The gradients of scale and bias stay the replica's own.
    """
    return _batch_norm_forward(x, scale, bias, eps, axis_name)[0]


def _batch_norm_forward(x, scale, bias, eps, axis_name):
    x32 = x.astype(jnp.float32)
    mean, square = _pmean((x32.mean((0, 1, 2)), (x32 * x32).mean((0, 1, 2))), axis_name)
    var = jnp.maximum(square - mean * mean, 0.0)
    inverse = lax.rsqrt(var + eps)
    factor = inverse * scale
    y = (x32 * factor + (bias - mean * factor)).astype(x.dtype)
    return (y, mean, var), (x, scale, mean, inverse)


def _batch_norm_backward(eps, axis_name, residuals, cotangents):
    del eps
    x, scale, mean, inverse = residuals
    dy = cotangents[0].astype(jnp.float32)
    x32 = x.astype(jnp.float32)
    count = x.size // x.shape[-1]
    dbias = dy.sum((0, 1, 2))
    dscale = ((dy * x32).sum((0, 1, 2)) - mean * dbias) * inverse
    mean_dy, mean_dy_xhat = _pmean((dbias / count, dscale / count), axis_name)
    # dx = scale / std * (dy - mean(dy) - xhat * mean(dy * xhat)), gathered by dy, x, 1.
    factor = scale * inverse
    slope = factor * inverse * mean_dy_xhat
    dx = factor * dy - slope * x32 + (slope * mean - factor * mean_dy)
    return dx.astype(x.dtype), dscale, dbias


batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


def _pmean(tree, axis_name):
    """Average over the replicas: before, each holds its own; after, all the same."""
    return tree if axis_name is None else lax.pmean(tree, axis_name)
