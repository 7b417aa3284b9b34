"""What AGVM does in a step: observe gradients, run the optimizer, scale its updates.

``Modulator`` is AGVM itself, ``Chained`` the transforms around it; users make them with
``agvm``, ``chain`` and ``modulate`` of ``chaining.py``.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from agvm_jax.optim.floats import divided, wide
from agvm_jax.optim.modules import (
    Modules,
    check_same_tree,
    label_tree,
    leaf_labels,
    module_names,
)
from agvm_jax.optim.options import AgvmOptions, is_known
from agvm_jax.optim.preconditioning import find_weights
from agvm_jax.optim.reduction import total_and_stats
from agvm_jax.optim.replicas import AxisName, axis_size
from agvm_jax.optim.variance import Average, ModuleScalars, smooth, variance_ratios
from agvm_jax.optim.wrappers import (
    check_averaged,
    check_nothing_hidden,
    check_scaled,
    first_follower,
    warn_of_scaled_gradients,
)

PyTree = Any


class AgvmState(NamedTuple):
    """What AGVM carries from step to step.

    Found in any optimizer state with ``optax.tree.get(opt_state, "AgvmState")``.
    """

    count: jax.Array  # () int32, steps taken
    mu: ModuleScalars  # the factor on each module's learning rate; 1 for the anchor
    phi: ModuleScalars  # last measured 1 - cos; nan before the first measurement
    measured: ModuleScalars  # () float32, measurements that each mu is made of


@dataclasses.dataclass(frozen=True)
class Modulator:
    """The two parts of AGVM, observing and scaling; see ``agvm`` for the fields."""

    options: AgvmOptions
    axis_name: AxisName | None
    modules: Modules
    shard_axes: AxisName | PyTree | None
    scale_gradients: bool

    def init(self, params: PyTree) -> AgvmState:
        if not jax.tree.leaves(params) and not isinstance(params, dict | list | tuple):
            # optax.tree.map_params looks at the state of a placeholder to see where
            # the parameters are. There are none in ours, and its scalars, one a
            # module, are taken as one thing.
            zero: Any = jnp.zeros((), jnp.int32)
            return AgvmState(zero, zero, zero, zero)
        names = module_names(label_tree(params, self.modules))
        if self.options.anchor not in names:
            raise ValueError(
                f"anchor={self.options.anchor!r} is no module of these parameters; "
                f"modules: {list(names)}. Choose one of them with anchor=, or say with "
                "modules= which parameters belong together"
            )
        return AgvmState(
            count=jnp.zeros((), jnp.int32),
            mu={m: jnp.ones((), jnp.float32) for m in names},
            phi={m: jnp.full((), jnp.nan, jnp.float32) for m in names},
            measured={m: jnp.zeros((), jnp.float32) for m in names},
        )

    def update(
        self,
        updates: PyTree,
        state: PyTree,
        params: PyTree | None = None,
        *,
        phi: ModuleScalars | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree, AgvmState]:
        """Observe and scale at one place."""
        del extra_args
        if self.options.precondition is not False:
            raise ValueError(
                "precondition needs the state of the optimizer that follows: use "
                "agvm_jax.chain(agvm(...), ...) or modulate(...), not optax.chain"
            )
        if not self.scale_gradients:
            warn_of_scaled_gradients()
        mean, state = self.observe(updates, state, params, phi)
        return self.scale(mean, state, params), state

    def observe(
        self,
        updates: PyTree,
        state: AgvmState,
        params: PyTree | None,
        phi: ModuleScalars | None,
        inner_state: PyTree = None,
    ) -> tuple[PyTree, AgvmState]:
        """Return the mean gradients and the state with its new mu."""
        labels = self._labels(updates, state, params)
        due = True if self._always() else self.options.due(state.count)
        if phi is not None:
            _check_phi(phi, state.mu)
        elif self.axis_name is None:
            raise ValueError(
                "agvm has no axis and got no phi: give it the axis of replicas, "
                "agvm(axis_name='data'), with their own gradients; or pass phi=, from "
                "GroupPlan or phi_of_groups, with averaged ones"
            )
        else:
            options = self.options
            total, stats = total_and_stats(
                updates,
                self.axis_name,
                labels,
                options.estimator,
                options.split,
                find_weights(
                    options.precondition,
                    inner_state,
                    updates,
                    options.precondition_eps,
                ),
                shard_axes=self.shard_axes,
                due=due,
            )
            # Divided last, so that the quotient is made on the way into the optimizer
            # and needs no pass through memory of its own.
            updates, phi = divided(total, axis_size(self.axis_name)), stats.phi
        return updates, self._smooth(state, phi, due)

    def scale(
        self, updates: PyTree, state: AgvmState, params: PyTree | None = None
    ) -> PyTree:
        """Multiply the updates of each module by its mu; dtypes stay (eq. 4).

        An optimizer may make floats of the updates of counters. Those are told by
        ``params``, if there are any.
        """
        labels = label_tree(updates if params is None else params, self.modules)
        leaves, treedef = jax.tree.flatten(updates)
        scaled = [
            _scaled(leaf, state.mu[label]) if label in state.mu else leaf
            for label, leaf in zip(leaf_labels(labels, updates), leaves, strict=True)
        ]
        return jax.tree.unflatten(treedef, scaled)

    def _always(self) -> bool:
        """Whether every step measures, so that nothing need be asked on the device."""
        tau, start = self.options.tau, self.options.start_step
        return (
            is_known(tau) and is_known(start) and float(tau) == 1 and float(start) == 0
        )

    def _smooth(
        self, state: AgvmState, phi: ModuleScalars, due: jax.Array | bool
    ) -> AgvmState:
        """Fold the ratios of this measurement into mu (eq. 5)."""
        given = self.options.alpha
        alpha = jnp.asarray(given(state.count) if callable(given) else given)
        phi = {m: jnp.asarray(phi[m], jnp.float32) for m in state.mu}
        # An infinite phi would pass for a ratio of zero.
        phi = {m: jnp.where(jnp.isfinite(p), p, jnp.nan) for m, p in phi.items()}
        options = self.options
        ratios = variance_ratios(phi, options.anchor, options.clip, options.eps)
        old = Average(state.mu, state.measured)
        mu, measured = smooth(old, ratios, alpha, options.average, due)
        known = {
            m: jnp.where(jnp.isfinite(phi[m]) & due, phi[m], state.phi[m]) for m in phi
        }
        count = jnp.asarray(optax.safe_increment(state.count))
        return AgvmState(count, mu, known, measured)

    def _labels(
        self, updates: PyTree, state: AgvmState, params: PyTree | None
    ) -> PyTree:
        if params is not None:
            check_same_tree(updates, params)
        labels = label_tree(updates if params is None else params, self.modules)
        if module_names(labels) != tuple(sorted(state.mu)):
            raise ValueError(
                f"the updates have modules {list(module_names(labels))} but the state "
                f"was made for {sorted(state.mu)}: pass gradients of the same "
                "parameters that init was called with"
            )
        return labels


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
        last = first_follower(self.transforms, states) - 1
        check_nothing_hidden(states, AgvmState, self.place, last)
        if modulator:
            check_scaled(self.transforms, states, self.place, modulator.scale_gradients)
            check_averaged(states, self.place, modulator.axis_name)


def modulator_of(tx: optax.GradientTransformation) -> Modulator | None:
    """Return the modulator of a transform that ``agvm`` made, else None."""
    owner = getattr(tx.update, "__self__", None)
    return owner if isinstance(owner, Modulator) else None


def _scaled(update: jax.Array, mu: jax.Array) -> jax.Array:
    update = jnp.asarray(update)
    return (wide(update) * mu).astype(update.dtype)


def _check_phi(phi: ModuleScalars, mu: ModuleScalars) -> None:
    if set(phi) != set(mu):
        raise ValueError(
            f"phi has modules {sorted(phi)} but the parameters have {sorted(mu)}: pass "
            "one number for each, nan where there is no measurement"
        )
