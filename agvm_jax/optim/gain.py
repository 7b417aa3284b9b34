"""Tells whether an optimizer lets AGVM's modulation through to the parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from agvm_jax.optim.core import AgvmState
from agvm_jax.optim.modules import Modules, is_inexact, label_tree, module_names
from agvm_jax.optim.variance import module_sq_norms

PyTree = Any


def modulation_gain(
    tx: optax.GradientTransformation,
    params: PyTree,
    modules: Modules = None,
    *,
    num_steps: int = 4,
    **extra_args: Any,
) -> dict[str, float]:
    """Return how much of each module's mu reaches its update: 1 faithful, 0 inert.

    Two short runs are compared, from the same gradients and with mu held: mu = 1
    everywhere, and mu = 2 for one module. The gain is log2 of the ratio of the
    distances that this module moved.

    Args:
      tx: an optimizer with an ``agvm`` somewhere inside.
      params: its parameters.
      modules: as given to ``agvm``; needed only where ``tx`` is not made by ``chain``
        or ``modulate`` and modules are not the top-level keys.
      num_steps: steps of a run, more than one since a warm-up may start from rate 0.
      **extra_args: what other transforms in ``tx`` need.

    Raises:
      ValueError: no ``agvm`` in ``tx``, or an optimizer that moves nothing.

    >>> from agvm_jax.optim import agvm, chain
    >>> params = {"backbone": jnp.ones(2), "head": jnp.ones(2)}
    >>> modulation_gain(chain(agvm(), optax.adam(1e-3)), params)
    {'backbone': 1.0, 'head': 1.0}
    >>> modulation_gain(optax.chain(agvm(), optax.adam(1e-3)), params)
    {'backbone': 0.0, 'head': 0.0}
    """
    extended = optax.with_extra_args_support(tx)
    states = _agvm_states(jax.eval_shape(extended.init, params))
    if not states:
        raise ValueError("modulation_gain: there is no agvm in this optimizer")
    names = sorted(states[0].mu)
    labels = label_tree(params, _modules_of(tx) if modules is None else modules)
    if list(module_names(labels)) != names:
        raise ValueError(
            f"modulation_gain finds modules {list(module_names(labels))} in the "
            f"parameters but agvm has {names}: pass the modules= that agvm was given"
        )
    grads = _some_gradients(params)
    unknown = dict.fromkeys(names, jnp.full((), jnp.nan, jnp.float32))

    @jax.jit
    def distances(mu: dict[str, jax.Array]) -> dict[str, jax.Array]:
        state, moved = extended.init(params), None
        for _ in range(num_steps):
            updates, state = extended.update(
                grads, _with_mu(state, mu), params, phi=unknown, **extra_args
            )
            moved = updates if moved is None else jax.tree.map(jnp.add, moved, updates)
        return module_sq_norms(moved, labels)

    ones = dict.fromkeys(names, jnp.ones((), jnp.float32))
    before = distances(ones)
    if not all(before[name] > 0 for name in names):
        still = [name for name in names if not before[name] > 0]
        raise ValueError(
            f"modulation_gain: the optimizer moves nothing in {still} within "
            f"{num_steps} steps; raise num_steps beyond a warm-up from rate 0"
        )
    gains = {}
    for name in names:
        after = distances({**ones, name: jnp.full((), 2.0, jnp.float32)})[name]
        # Squared distances: a faithful factor of 2 arrives as 4.
        gains[name] = round(0.5 * float(jnp.log2(after / before[name])), 3) + 0.0
    return gains


def _modules_of(tx: optax.GradientTransformation) -> Modules:
    """Return how a transform of ours groups parameters; None if it cannot be asked."""
    modulator = getattr(tx, "modulator", None)
    return None if modulator is None else modulator.modules


def _some_gradients(params: PyTree) -> PyTree:
    """Return gradients of size 1 that are the same in every call."""
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    return jax.tree.unflatten(
        treedef,
        [
            jax.random.normal(key, jnp.shape(leaf), jnp.result_type(leaf))
            if is_inexact(leaf)
            else leaf
            for key, leaf in zip(keys, leaves, strict=True)
        ],
    )


def _with_mu(state: PyTree, mu: dict[str, jax.Array]) -> PyTree:
    return jax.tree.map(
        lambda s: s._replace(mu=mu) if isinstance(s, AgvmState) else s,
        state,
        is_leaf=lambda s: isinstance(s, AgvmState),
    )


def _agvm_states(state: PyTree) -> list[AgvmState]:
    leaves = jax.tree.leaves(state, is_leaf=lambda s: isinstance(s, AgvmState))
    return [leaf for leaf in leaves if isinstance(leaf, AgvmState)]
