"""Arithmetic on trees of gradients: on their floats, in the precision that it needs.

A tree of parameters may hold counters and tables of integers. They can have no
gradient, and every function here passes such leaves on as they are.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf can have a gradient: floating point or complex."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def map_floats(fn: Callable[..., Any], tree: PyTree, *rest: PyTree) -> PyTree:
    """Map ``fn`` over the leaves that can have a gradient."""
    return jax.tree.map(
        lambda leaf, *others: fn(leaf, *others) if is_inexact(leaf) else leaf,
        tree,
        *rest,
    )


def added(sums: PyTree, grads: PyTree) -> PyTree:
    """Return sums + grads, in the dtypes of the sums."""
    return map_floats(lambda s, g: s + g.astype(s.dtype), sums, grads)


def kept_where(condition: jax.Array, grads: PyTree) -> PyTree:
    """Return the gradients where a scalar condition holds, and zeros elsewhere."""
    return map_floats(lambda g: jnp.where(condition, g, 0), grads)


def midway(a: PyTree, b: PyTree) -> PyTree:
    """Return (a + b) / 2."""
    return map_floats(lambda x, y: (x + y) / 2, a, b)


def divided(total: PyTree, count: int) -> PyTree:
    """Return a tree divided by a number, in its own dtypes."""
    return map_floats(lambda g: g / count, total) if count != 1 else total


def weighted(weights: PyTree | None, grads: PyTree) -> PyTree:
    """Return weights * grads in float32 or wider; grads alone without weights."""
    if weights is None:
        return grads
    return map_floats(lambda g, w: wide(g) * w, grads, weights)


def psum_floats(grads: PyTree, axis_name: str | tuple[str, ...]) -> PyTree:
    """Return the sum over a named axis."""
    return map_floats(lambda g: jax.lax.psum(g, axis_name), grads)


def in_dtypes(tree: PyTree, dtypes: Sequence[jnp.dtype]) -> PyTree:
    """Return a tree with its floats in these dtypes, one for each leaf."""
    leaves, treedef = jax.tree.flatten(tree)
    cast = [
        leaf.astype(dtype) if is_inexact(leaf) else leaf
        for leaf, dtype in zip(leaves, dtypes, strict=True)
    ]
    return jax.tree.unflatten(treedef, cast)


def wide(x: jax.Array) -> jax.Array:
    """Return x in float32, or in its own dtype where that is wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
