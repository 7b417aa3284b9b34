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


def adam_weights(
    opt_state: PyTree, eps: float = 1e-8, params: PyTree | None = None
) -> PyTree:
    """Return 1 / (sqrt(v) + eps), v the second moment ``nu`` found in a state.

    The released code divides the half-batch gradients of AdamW by sqrt(v) + eps before
    it takes their cosine, v as the step before left it and without bias correction.
    (It means to add the current square as well, but divides that by the number of
    replicas squared, which leaves next to nothing of it.)

    Args:
      opt_state: the optimizer's state.
      eps: the optimizer's own.
      params: a pytree of the parameters' structure. Needed where several optimizers
        share them (``optax.partition``, ``optax.contrib.muon``), each of which holds
        the ``nu`` of its own part.

    Raises:
      ValueError: a parameter without a ``nu``, or with several.

    >>> state = optax.adam(1e-3).init({"fpn": jnp.ones(1)})
    >>> adam_weights(state, eps=0.5)["fpn"].tolist()
    [2.0]
    """

    def weight(v: jax.Array) -> jax.Array:
        return 1.0 / (jnp.sqrt(v.astype(jnp.float32)) + eps)

    trees = [nu for _, nu in optax.tree.get_all_with_path(opt_state, "nu")]
    if not trees:
        raise ValueError(
            "precondition=True found no second moment 'nu' in the optimizer, which "
            "must be of Adam's kind: use precondition=False, or pass a function from "
            "its state to the tree of factors"
        )
    if params is None:
        if len(trees) == 1:
            return jax.tree.map(weight, trees[0])
        raise ValueError(
            f"there are {len(trees)} trees of second moments 'nu' in the optimizer: "
            "pass params=, so that each parameter can be given its own"
        )
    # Where an optimizer has only a part, optax leaves nodes without leaves elsewhere.
    found: dict[str, list[jax.Array]] = {}
    for tree in trees:
        for path, v in zip(leaf_paths(tree), jax.tree.leaves(tree), strict=True):
            found.setdefault(path, []).append(v)
    paths = leaf_paths(params)
    missing = [path for path in paths if path not in found]
    if missing:
        raise ValueError(
            f"precondition=True found no second moment 'nu' of {len(missing)} "
            f"parameters, {missing[0]!r} first: their optimizer keeps none, so their "
            "gradients cannot be measured as Adam's. Use precondition=False, or "
            "pass a function from the optimizer's state to the tree of factors"
        )
    double = [path for path in paths if len(found[path]) > 1]
    if double:
        raise ValueError(
            f"precondition=True found {len(found[double[0]])} second moments 'nu' of "
            f"the parameter {double[0]!r}: pass a function from the optimizer's state "
            "to the tree of factors"
        )
    treedef = jax.tree.structure(params)
    return jax.tree.unflatten(treedef, [weight(found[path][0]) for path in paths])


def find_weights(
    precondition: Precondition, opt_state: PyTree, grads: PyTree, eps: float = 1e-8
) -> PyTree | None:
    """Return one factor for each gradient, or None without preconditioning."""
    if precondition is False:
        return None
    if precondition is True:
        return adam_weights(opt_state, eps, grads)
    weights = precondition(opt_state)
    if leaf_paths(weights) != leaf_paths(grads):
        raise ValueError(
            "precondition must give one factor for each gradient, but its tree differs "
            "from theirs: freeze parameters with modules= instead of hiding them from "
            "the optimizer"
        )
    return weights
