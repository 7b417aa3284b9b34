"""Sums over the objects of a sample for the CPU, a few rows of one image at a time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

# Rows of an image that are computed at once.
_CHUNK = 16


def sum_over_objects(
    function: Callable[..., jax.Array], features: jax.Array, *fields: jax.Array
) -> jax.Array:
    """See `ops.object_chunks`; here a few rows of one image are taken at a time.

    Differentiable once, in reverse.
    """
    features, fields = jax.tree.map(_split, (features, fields))
    example = (features[0], *(field[0] for field in fields))
    function, hoisted = jax.closure_convert(function, *example)
    return _sum_over_chunks(function, hoisted, features, fields)


def _split(field: jax.Array) -> jax.Array:
    """Cut (B, S, ...) into (chunks, rows, ...), with zeros behind each image's rows."""
    images, rows = field.shape[:2]
    count = -(-rows // _CHUNK)
    padding = [(0, 0)] * field.ndim
    padding[1] = (0, count * _CHUNK - rows)
    return jnp.pad(field, padding).reshape(images * count, _CHUNK, *field.shape[2:])


def _sum(function, hoisted, features, fields):
    def add(total, chunk):
        def some(total, *chunk):
            return total + function(*chunk, *hoisted)

        return lax.cond(chunk[-1].any(), some, lambda t, *_: t, total, *chunk), None

    return lax.scan(add, jnp.zeros(()), (features, *fields))[0]


_sum_over_chunks = jax.custom_vjp(_sum, nondiff_argnums=(0,))


def _sum_and_gradients(function, hoisted, features, fields):
    def add(sums, chunk):
        def some(sums, features, *fields):
            def of_both(features, hoisted):
                return function(features, *fields, *hoisted)

            value_and_grad = jax.value_and_grad(of_both, argnums=(0, 1))
            value, (slope, slopes) = value_and_grad(features, hoisted)
            return jax.tree.map(jnp.add, sums, (value, slopes)), slope

        def none(sums, features, *_):
            return sums, jnp.zeros_like(features)

        return lax.cond(chunk[-1].any(), some, none, sums, *chunk)

    nothing = jnp.zeros(()), jax.tree.map(jnp.zeros_like, hoisted)
    (total, hoisted_slopes), slopes = lax.scan(add, nothing, (features, *fields))
    return total, (hoisted_slopes, slopes)


def _scale(function, slopes, cotangent):
    del function
    scaled = jax.tree.map(lambda s: (s * cotangent).astype(s.dtype), slopes)
    return *scaled, None  # none for the fields


_sum_over_chunks.defvjp(_sum_and_gradients, _scale)
