"""Puts AGVM around an optimizer: chain, modulate, and the proof that it arrives there."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from agvm_jax.optim.modulator import (
    AgvmState,
    AgvmTransformation,
    Modulator,
    Precondition,
    ScalarOrSchedule,
    agvm,
)
from agvm_jax.optim.modules import Modules, is_inexact, label_tree, module_names
from agvm_jax.optim.reduction import AxisName
from agvm_jax.optim.variance import Estimator, Split, module_sq_norms

PyTree = Any


class ModulatedTransformation(optax.GradientTransformationExtraArgs):
    """What ``chain`` returns around an ``agvm``: it scales what comes out last."""

    modulator: Modulator

    def __new__(
        cls, init: Callable, update: Callable, modulator: Modulator
    ) -> "ModulatedTransformation":
        self = super().__new__(cls, init, update)
        self.modulator = modulator
        return self


def chain(
    *transforms: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Chain transforms as ``optax.chain`` does, with ``agvm`` meant as the paper has it.

    ``agvm`` measures and averages where it stands; what follows it is the optimizer; and
    its modulation is applied to what comes out last, so that no optimizer can divide
    it out. Without an ``agvm`` this is ``optax.chain``. The state is laid out as
    ``optax.chain`` lays it out: one entry a transform.

    Raises:
      ValueError: no transform, two ``agvm``; at ``init`` an ``agvm`` hidden inside a
        wrapper that is not last, where it cannot be moved.

    >>> params = {"backbone": jnp.ones(2), "head": jnp.ones(2)}
    >>> tx = chain(agvm(alpha=0.0), optax.adamw(0.1))
    >>> grads = {"backbone": jnp.ones(2), "head": jnp.ones(2)}
    >>> phi = {"backbone": 0.8, "head": 0.2}
    >>> updates, state = tx.update(grads, tx.init(params), params, phi=phi)
    >>> (updates["head"] / updates["backbone"]).round(3).tolist()
    [2.0, 2.0]
    """
    if not transforms:
        raise ValueError("chain() needs at least one transform")
    places = [
        i for i, tx in enumerate(transforms) if isinstance(tx, AgvmTransformation)
    ]
    if len(places) > 1:
        raise ValueError(
            f"chain() got agvm {len(places)} times, at places {places}: one measures "
            "and scales all modules"
        )
    inner = [optax.with_extra_args_support(tx) for tx in transforms]

    def init(params: PyTree) -> tuple:
        state = tuple(tx.init(params) for tx in inner)
        _check_nothing_hidden(state, range(len(inner) - 1))
        return state

    if not places:
        return optax.GradientTransformationExtraArgs(
            init, optax.chain(*transforms).update
        )
    place = places[0]
    modulator = transforms[place].modulator

    def update(
        updates: PyTree, state: tuple, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, tuple]:
        if len(state) != len(inner):
            raise ValueError(
                f"chain() of {len(inner)} transforms got a state of {len(state)}: pass "
                "the state that its own init made"
            )
        new_state = list(state)
        for i, tx in enumerate(inner):
            if i == place:
                updates, new_state[i] = modulator.observe(
                    updates, state[i], params, extra_args.get("phi"), state[i + 1 :]
                )
            else:
                updates, new_state[i] = tx.update(
                    updates, state[i], params, **extra_args
                )
        return modulator.scale(updates, new_state[place]), tuple(new_state)

    return ModulatedTransformation(init, update, modulator)


def modulate(
    inner: optax.GradientTransformation,
    axis_name: AxisName | None = None,
    modules: Modules = None,
    *,
    anchor: str = "backbone",
    estimator: Estimator = "halves",
    split: Split = "interleaved",
    tau: ScalarOrSchedule = 10,
    alpha: ScalarOrSchedule = 0.97,
    start_step: int = 0,
    clip: tuple[float, float] | None = (0.5, 10.0),
    eps: float = 1e-6,
    debias: bool = False,
    precondition: Precondition = False,
) -> optax.GradientTransformationExtraArgs:
    """Wrap an optimizer in AGVM: ``chain(agvm(...), inner)``, said as a wrapper.

    Around ``optax.sgd`` with momentum and decayed weights it is Algorithm 1, around
    ``optax.adamw`` Algorithm 2: momentum and weight decay are scaled with the rest.
    Arguments as in ``agvm``.

    >>> tx = modulate(optax.adamw(1e-3))
    >>> state = tx.init({"backbone": jnp.ones(2), "head": jnp.ones(2)})
    >>> optax.tree.get(state, "AgvmState").mu["head"].item()
    1.0
    """
    modulator = agvm(
        axis_name,
        modules,
        anchor=anchor,
        estimator=estimator,
        split=split,
        tau=tau,
        alpha=alpha,
        start_step=start_step,
        clip=clip,
        eps=eps,
        debias=debias,
        precondition=precondition,
    )
    return chain(modulator, inner)


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
    everywhere, and mu = 2 for one module. The gain is log2 of the ratio of the distances
    that this module moved.

    Args:
      tx: an optimizer with an ``agvm`` somewhere inside.
      params: its parameters.
      modules: as given to ``agvm``; needed only where ``tx`` is not made by ``chain``
        or ``modulate`` and modules are not the top-level keys.
      num_steps: steps of a run, more than one since a warm-up may start from rate 0.
      **extra_args: what other transforms in ``tx`` need.

    Raises:
      ValueError: no ``agvm`` in ``tx``, or an optimizer that moves nothing.

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


def _check_nothing_hidden(states: tuple, wrappers: range) -> None:
    """Raise if a wrapper hides an agvm from chain before the end.

    Inside ``optax.masked`` or ``inject_hyperparams`` agvm cannot be taken apart, and
    what follows could divide its scale out. A plain tuple is a chain's own state.
    """
    for place in wrappers:
        flat, _ = jax.tree_util.tree_flatten_with_path(
            states[place], is_leaf=lambda s: isinstance(s, AgvmState)
        )
        for path, leaf in flat:
            wrapped = path and isinstance(path[-1], jax.tree_util.GetAttrKey)
            if isinstance(leaf, AgvmState) and wrapped:
                raise ValueError(
                    f"chain() cannot reach the agvm inside transform {place}, and what "
                    "follows it could divide its scale out: put agvm itself into the "
                    "chain and the wrapper around the whole, "
                    "wrapper(chain(agvm(...), ...))"
                )
