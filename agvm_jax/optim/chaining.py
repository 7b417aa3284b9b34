"""Puts AGVM around an optimizer: ``chain`` as a drop-in, ``modulate`` as a wrapper."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import optax

from agvm_jax.optim.equations import AverageKind, ScalarOrSchedule
from agvm_jax.optim.modulation import (
    AgvmState,
    Modulator,
    agvm,
    modulator_of,
    warn_of_scaled_gradients,
)
from agvm_jax.optim.modules import Modules
from agvm_jax.optim.preconditioning import Precondition
from agvm_jax.optim.replicas import AxisName
from agvm_jax.optim.variance import Estimator, Split
from agvm_jax.optim.wrappers import (
    check_averaged,
    check_scaled,
    first_follower,
    holds,
)

PyTree = Any


def chain(
    *transforms: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Chain transforms as ``optax.chain`` does, with ``agvm`` as the paper means it.

    ``agvm`` measures and averages where it stands; what follows it is the optimizer;
    and its modulation is applied to what comes out last, so that no optimizer can
    divide it out. What must have the last word still has it: the scale stands right
    before ``keep_params_nonnegative``, a line search, ``snapshot``, ``monitor`` or
    ``apply_every`` at the end. Without an ``agvm`` this is ``optax.chain``. The state
    has one entry for each transform, as that of ``optax.chain``; a ``chain`` or
    ``modulate`` among the transforms counts as those that it is made of.

    Raises:
      ValueError: no transform, two ``agvm``; at ``init`` an ``agvm`` hidden inside
        another transform, where it cannot be moved, or a transform that AGVM has to
        stay inside of, such as ``schedule_free`` (docs/optimizers.md lists them).

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
    flat = [part for tx in transforms for part in _parts_of(tx)]
    places = [i for i, tx in enumerate(flat) if modulator_of(tx)]
    if len(places) > 1:
        raise ValueError(
            f"chain() got agvm {len(places)} times, at places {places}: one measures "
            "and scales all modules, a second would scale them twice"
        )
    chained = Chained(tuple(flat), places[0] if places else None)
    return optax.GradientTransformationExtraArgs(chained.init, chained.update)


@dataclasses.dataclass(frozen=True)
class Chained:
    """The transforms of a ``chain``, and where ``agvm`` stands among them."""

    transforms: tuple[optax.GradientTransformation, ...]
    place: int | None

    def init(self, params: PyTree) -> tuple:
        # Those around agvm first: what is wrong with them is said before agvm looks
        # for its modules, among lookahead's two copies of the parameters for example.
        states = [
            None if i == self.place else tx.init(params)
            for i, tx in enumerate(self.transforms)
        ]
        self._check(states)
        if self.place is not None:
            states[self.place] = self.transforms[self.place].init(params)
        return tuple(states)

    def update(
        self,
        updates: PyTree,
        state: PyTree,
        params: PyTree | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree, tuple]:
        if len(state) != len(self.transforms):
            raise ValueError(
                f"chain() of {len(self.transforms)} transforms got a state of "
                f"{len(state)}: pass the state that its own init made"
            )
        modulator = self._modulator
        # phi is agvm's alone: a line search refuses arguments that it does not know.
        phi = None if modulator is None else extra_args.pop("phi", None)
        scaled_after = self._scaled_after(state)
        if modulator and scaled_after == self.place and not modulator.scale_gradients:
            # Nothing of this chain follows: what does may be outside of it.
            warn_of_scaled_gradients()
        new_state, observed = list(state), None
        for i, tx in enumerate(self.transforms):
            if modulator is not None and i == self.place:
                updates, observed = modulator.observe(
                    updates, state[i], params, phi, state[i + 1 :]
                )
                new_state[i] = observed
            else:
                updates, new_state[i] = optax.with_extra_args_support(tx).update(
                    updates, state[i], params, **extra_args
                )
            if modulator is not None and observed is not None and i == scaled_after:
                updates = modulator.scale(updates, observed, params)
        return updates, tuple(new_state)

    @property
    def _modulator(self) -> Modulator | None:
        return None if self.place is None else modulator_of(self.transforms[self.place])

    def _scaled_after(self, state: Sequence[PyTree]) -> int | None:
        """Return the transform whose updates are scaled."""
        modulator = self._modulator
        if self.place is None or modulator is None or modulator.scale_gradients:
            return self.place
        return first_follower(self.transforms, state) - 1

    def _check(self, states: Sequence[PyTree]) -> None:
        modulator = self._modulator
        _check_nothing_hidden(
            states, self.place, first_follower(self.transforms, states) - 1
        )
        if modulator:
            check_scaled(self.transforms, states, self.place, modulator.scale_gradients)
            check_averaged(states, self.place, modulator.axis_name)


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
    average: AverageKind = "paper",
    precondition: Precondition = False,
    precondition_eps: float = 1e-8,
    shard_axes: AxisName | PyTree | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Wrap an optimizer in AGVM: ``chain(agvm(...), inner)``, said as a wrapper.

    Around ``optax.sgd`` with momentum and decayed weights it is Algorithm 1, around
    ``optax.adamw`` Algorithm 2: momentum and weight decay are scaled with the rest.
    What keeps iterates goes around: ``schedule_free(modulate(optax.sgd(1.0)), 1.0)``.
    Arguments as in ``agvm``, errors as in ``chain``.

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
        average=average,
        precondition=precondition,
        precondition_eps=precondition_eps,
        shard_axes=shard_axes,
    )
    return chain(modulator, inner)


def _parts_of(
    tx: optax.GradientTransformation,
) -> tuple[optax.GradientTransformation, ...]:
    """Return the transforms of a chain of ours, or the one that it is."""
    owner = getattr(tx.update, "__self__", None)
    return owner.transforms if isinstance(owner, Chained) else (tx,)


def _check_nothing_hidden(
    states: Sequence[PyTree], place: int | None, last: int
) -> None:
    """Raise if a transform hides an agvm where chain cannot move its scale.

    Anywhere but last, what follows could divide the scale out. Beside an agvm of the
    chain itself a second one would square it.
    """
    for i, state in enumerate(states):
        if (place is None and i >= last) or not holds(state, AgvmState):
            continue
        if place is not None:
            raise ValueError(
                f"chain() has an agvm at place {place} and another one inside "
                f"transform {i}: updates would be scaled twice. Keep one of them"
            )
        raise ValueError(
            f"chain() cannot reach the agvm inside transform {i}, and what follows it "
            "could divide its scale out: put agvm itself into the chain and the "
            "wrapper around the whole, wrapper(chain(agvm(...), ...))"
        )
