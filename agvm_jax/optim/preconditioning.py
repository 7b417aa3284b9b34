"""Finds the factors that turn gradients into Adam's, for the preconditioned cosine."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from agvm_jax.optim.modules import leaf_paths

PyTree = Any
# Off, Adam's second moment, or a function from an optimizer's state to the factors.
Precondition = bool | Callable[[PyTree], PyTree]


def adam_weights(opt_state: PyTree, eps: float = 1e-8) -> PyTree:
    """Return 1 / (sqrt(v) + eps), v the second moment ``nu`` found in a state.

    The released code divides the half-batch gradients of AdamW by sqrt(v) + eps before
    it takes their cosine, v as the step before left it and without bias correction.
    (It means to add the current square as well, but divides that by the number of
    replicas squared, which leaves next to nothing of it.)

    Raises:
      ValueError: no ``nu`` in the state, or several.

    >>> state = optax.adam(1e-3).init({"fpn": jnp.ones(1)})
    >>> adam_weights(state, eps=0.5)["fpn"].tolist()
    [2.0]
    """
    try:
        nu = optax.tree.get(opt_state, "nu")
    except KeyError as error:
        raise ValueError(
            "precondition=True found several second moments 'nu' in the optimizer: "
            "pass a function from its state to the tree of factors"
        ) from error
    if nu is None:
        raise ValueError(
            "precondition=True found no second moment 'nu' in the optimizer, which "
            "must be of Adam's kind: use precondition=False, or pass a function from "
            "its state to the tree of factors"
        )
    return jax.tree.map(lambda v: 1.0 / (jnp.sqrt(v.astype(jnp.float32)) + eps), nu)


def find_weights(
    precondition: Precondition, opt_state: PyTree, grads: PyTree
) -> PyTree | None:
    """Return one factor for each gradient, or None without preconditioning."""
    if precondition is False:
        return None
    if precondition is True:
        weights = adam_weights(opt_state)
    else:
        weights = precondition(opt_state)
    if leaf_paths(weights) != leaf_paths(grads):
        raise ValueError(
            "precondition must give one factor for each gradient, but its tree differs "
            "from theirs: freeze parameters with modules= instead of hiding them from "
            "the optimizer"
        )
    return weights
