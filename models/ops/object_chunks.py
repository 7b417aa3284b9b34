"""Sums over the objects of a sample, some rows at a time, with their gradient.

A sample has room for many objects and holds few. What is computed for each of them is
large: one 14x14x256 map of the mask head is 0.2 MB, and it has a dozen of them.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Float32, Shaped

from .arrays import Array
from .forms import pick

# Rows of the whole batch that are computed at once: 25 thousand places of 14x14 maps.
_ROWS = 128


def sum_over_objects(
    function: Callable[..., Array],
    features: Float[Array, "B S ..."],
    *fields: Shaped[Array, "B S ..."],
) -> Float32[Array, ""]:
    """Return the sum of `function` over a sample, a fixed number of rows at a time.

    Nothing is computed for rows that hold no object, but for those that share their
    chunk with one. Where a gradient is asked for, each chunk's is computed right after
    its value and added up: nothing of a chunk is kept until the backward pass, where
    the sum's one cotangent is all that is missing. Gradients flow to `features` and to
    what `function` closes over, not to `fields`.

    Args:
      function: rows of `features` and `fields`, (rows, ...) each -> float32 scalar, a
        sum over rows that is 0 for those without objects.
      features: (B, S, ...) floats.
      *fields: (B, S, ...) each; the last is bool, True for objects. Objects stand in
        front of each image's rows.

    Returns:
      A float32 scalar.
    """
    form = pick("sum_over_objects", _sum_over_objects)
    return form(function, features, *fields)


def _sum_over_objects(function, features, *fields):
    # The objects of all images stand in front, so that the chunks with some are few.
    is_object = fields[-1].ravel()
    order = jnp.argsort(~is_object, stable=True)
    fields = [field.reshape(-1, *field.shape[2:])[order] for field in fields]
    features = features.reshape(-1, *features.shape[2:])
    size = min(_ROWS, is_object.shape[0])
    example = (features[:size], *(field[:size] for field in fields))
    function, hoisted = jax.closure_convert(function, *example)
    return _total(function, size, hoisted, features, order, fields)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _total(function, size, hoisted, features, order, fields):
    def add(total, chunk):
        def some(total, *chunk):
            return total + function(*chunk, *hoisted)

        return lax.cond(chunk[-1].any(), some, lambda t, *_: t, total, *chunk), None

    chunks = _split((features[order], *fields), size)
    return lax.scan(add, jnp.zeros(()), chunks)[0]


@_total.defjvp
def _total_and_slope(function, size, primals, tangents):
    """The gradient comes with the value, so it is what both modes of AD begin with."""
    hoisted, features, order, fields = primals

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
    chunks = _split((features[order], *fields), size)
    (total, hoisted_slopes), slopes = lax.scan(add, nothing, chunks)
    # Back to the order of the sample by a gather: an index has a scatter for gradient.
    slopes = slopes.reshape(-1, *slopes.shape[2:])[jnp.argsort(order)]
    tangent = _product(slopes, tangents[1])
    for slope, change in zip(hoisted_slopes, tangents[0], strict=True):
        tangent += _product(slope, change)
    return total, tangent


def _product(slope, change):
    return (slope.astype(jnp.float32) * change.astype(jnp.float32)).sum()


def _split(arrays, size):
    """Cut (rows, ...) into (chunks, size, ...), with zeros behind the last row."""

    def split(array):
        missing = [(0, -len(array) % size)] + [(0, 0)] * (array.ndim - 1)
        return jnp.pad(array, missing).reshape(-1, size, *array.shape[1:])

    return jax.tree.map(split, arrays)
