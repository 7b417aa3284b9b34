"""Puts AGVM around an optimizer: ``chain`` as a drop-in, ``modulate`` as a wrapper."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from agvm_jax.optim.core import AgvmState, Modulator, ScalarOrSchedule
from agvm_jax.optim.modulator import AgvmTransformation, agvm
from agvm_jax.optim.modules import Modules
from agvm_jax.optim.preconditioning import Precondition
from agvm_jax.optim.replicas import AxisName
from agvm_jax.optim.variance import Estimator, Split

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
    """Chain transforms as ``optax.chain`` does, with ``agvm`` as the paper means it.

    ``agvm`` measures and averages where it stands; what follows it is the optimizer;
    and its modulation is applied to what comes out last, so that no optimizer can
    divide it out. Without an ``agvm`` this is ``optax.chain``. The state is laid out as
    ``optax.chain`` lays it out: one entry a transform.

    Raises:
      ValueError: no transform, two ``agvm``; at ``init`` an ``agvm`` hidden inside a
        wrapper that is not last, where it cannot be moved.

    >>> from jax import numpy as jnp
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

    >>> from jax import numpy as jnp
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
