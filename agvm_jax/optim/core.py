"""The two parts of AGVM: observe gradients, scale updates; ``chain`` places them."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from agvm_jax.optim.modules import (
    FROZEN,
    Modules,
    label_tree,
    leaf_labels,
    leaf_paths,
    module_names,
)
from agvm_jax.optim.preconditioning import Precondition, find_weights
from agvm_jax.optim.reduction import (
    divided,
    needs_norms_only,
    own_sq_norms,
    stats_of_norms,
    sum_gradients,
    total_and_phi,
)
from agvm_jax.optim.replicas import AxisName, as_varying, axis_size
from agvm_jax.optim.smoothing import Average, smooth, variance_ratios
from agvm_jax.optim.variance import (
    Estimator,
    ModuleScalars,
    Split,
    check_estimator,
    wide,
)

PyTree = Any
ScalarOrSchedule = float | jax.Array | Callable[[jax.Array], Any]


class AgvmState(NamedTuple):
    """What AGVM carries from step to step.

    Found in any optimizer state with ``optax.tree.get(opt_state, "AgvmState")``.
    """

    count: jax.Array  # () int32, steps taken
    mu: ModuleScalars  # the factor on each module's learning rate; 1 for the anchor
    phi: ModuleScalars  # last measured 1 - cos; nan before the first measurement
    residual: ModuleScalars  # weight that the initial mu = 1 still has in the average


@dataclasses.dataclass(frozen=True, kw_only=True)
class Modulator:
    """What ``agvm`` was asked for, and its two parts; see there for the fields."""

    axis_name: AxisName | None
    modules: Modules
    anchor: str
    estimator: Estimator
    split: Split
    tau: ScalarOrSchedule
    alpha: ScalarOrSchedule
    start_step: int
    clip: tuple[float, float] | None
    eps: float
    debias: bool
    precondition: Precondition

    def __post_init__(self) -> None:
        check_estimator(self.estimator, self.split)
        # inject_hyperparams hands in traced values; those cannot be looked at.
        if _known(self.tau) and self.tau < 1:
            raise ValueError(f"tau={self.tau}: steps between measurements, at least 1")
        if _known(self.alpha) and not 0 <= self.alpha < 1:
            raise ValueError(
                f"alpha={self.alpha}: the smoothing lies in [0, 1); 0 keeps only the "
                "last measurement, 1 would never take one in"
            )
        if _known(self.start_step) and self.start_step < 0:
            raise ValueError(f"start_step={self.start_step}: a step, at least 0")
        if _known(self.eps) and self.eps < 0:
            raise ValueError(f"eps={self.eps}: at least 0")
        if self.clip is not None:
            low, high = self.clip
            if not 0 <= low <= 1 <= high:
                raise ValueError(
                    f"clip=({low}, {high}): bounds of the variance ratio, (low, high) "
                    "with 0 <= low <= 1 <= high, since the anchor's own ratio is 1"
                )

    def init(self, params: PyTree) -> AgvmState:
        names = module_names(label_tree(params, self.modules))
        if self.anchor not in names:
            raise ValueError(
                f"anchor={self.anchor!r} is no module of these parameters; modules: "
                f"{list(names)}. Choose one of them with anchor=, or say with modules= "
                "which parameters belong together"
            )
        return AgvmState(
            count=jnp.zeros((), jnp.int32),
            mu={m: jnp.ones((), jnp.float32) for m in names},
            phi={m: jnp.full((), jnp.nan, jnp.float32) for m in names},
            residual={m: jnp.ones((), jnp.float32) for m in names},
        )

    def update(
        self,
        updates: PyTree,
        state: AgvmState,
        params: PyTree | None = None,
        *,
        phi: ModuleScalars | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree, AgvmState]:
        """Observe and scale at one place."""
        del extra_args
        if self.precondition is not False:
            raise ValueError(
                "precondition needs the state of the optimizer that follows: use "
                "agvm_jax.chain(agvm(...), ...) or modulate(...), not optax.chain"
            )
        mean, state = self.observe(updates, state, params, phi)
        return self.scale(mean, state), state

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
        due = self._due(state.count)
        if phi is not None:
            _check_phi(phi, state.mu)
        elif self.axis_name is None:
            raise ValueError(
                "agvm has no axis and got no phi: give it the axis of replicas, "
                "agvm(axis_name='data'), with their own gradients; or pass phi=, from "
                "GroupPlan or phi_of_groups, with averaged ones"
            )
        else:
            updates, phi = self._measure(updates, labels, due, inner_state)
        return updates, self._smooth(state, phi, due)

    def scale(self, updates: PyTree, state: AgvmState) -> PyTree:
        """Multiply the updates of each module by its mu; dtypes stay (eq. 4)."""
        labels = label_tree(updates, self.modules)
        leaves, treedef = jax.tree.flatten(updates)
        scaled = [
            leaf if label == FROZEN else _scaled(leaf, state.mu[label])
            for label, leaf in zip(leaf_labels(labels, updates), leaves, strict=True)
        ]
        return jax.tree.unflatten(treedef, scaled)

    def _due(self, count: jax.Array) -> jax.Array | bool:
        """Whether this step measures; True itself if every step does."""
        tau = self.tau(count) if callable(self.tau) else self.tau
        if _known(tau) and tau == 1 and _known(self.start_step) and not self.start_step:
            return True
        tau = jnp.maximum(jnp.asarray(tau).astype(jnp.int32), 1)
        return (count >= self.start_step) & (count % tau == 0)

    def _measure(
        self, grads: PyTree, labels: PyTree, due: jax.Array | bool, inner_state: PyTree
    ) -> tuple[PyTree, ModuleScalars]:
        """Average over the axis; measure on the way if it is time."""

        axis = self.axis_name

        def measured(grads: PyTree) -> tuple[PyTree, ModuleScalars]:
            weights = find_weights(self.precondition, inner_state, grads)
            total, stats = total_and_phi(
                grads, axis, labels, self.estimator, self.split, weights
            )
            return total, stats.phi

        def summed(grads: PyTree) -> tuple[PyTree, ModuleScalars]:
            return sum_gradients(grads, axis), nothing

        def own_norms(grads: PyTree) -> ModuleScalars:
            weights = find_weights(self.precondition, inner_state, grads)
            return own_sq_norms(grads, axis, labels, weights)

        def measured_apart(norms: ModuleScalars, total: PyTree) -> ModuleScalars:
            weights = find_weights(self.precondition, inner_state, total)
            return stats_of_norms(
                norms, total, axis, labels, self.estimator, weights
            ).phi

        nan = jnp.full((), jnp.nan, jnp.float32)
        nothing = dict.fromkeys(module_names(labels), nan)
        if due is True:
            total, phi = measured(grads)
        elif needs_norms_only(self.estimator, axis, grads):
            # In two parts, so that the replica's own gradients need not be kept beside
            # their sum. And the sum stays outside the condition: there the compiler may
            # start it while the backward pass still runs.
            norms = jax.lax.cond(
                due, own_norms, lambda grads: as_varying(nothing, axis), grads
            )
            total = sum_gradients(grads, axis)
            phi = jax.lax.cond(
                due, measured_apart, lambda norms, total: nothing, norms, total
            )
        else:
            total, phi = jax.lax.cond(due, measured, summed, grads)
        # Divided last, so that the quotient is made on the way into the optimizer and
        # needs no pass through memory of its own.
        return divided(total, axis_size(axis)), phi

    def _smooth(
        self, state: AgvmState, phi: ModuleScalars, due: jax.Array | bool
    ) -> AgvmState:
        """Fold the ratios of this measurement into mu (eq. 5)."""
        alpha = self.alpha(state.count) if callable(self.alpha) else self.alpha
        alpha = jnp.asarray(alpha, jnp.float32)
        phi = {m: jnp.asarray(phi[m], jnp.float32) for m in state.mu}
        # An infinite phi would pass for a ratio of zero.
        phi = {m: jnp.where(jnp.isfinite(p), p, jnp.nan) for m, p in phi.items()}
        ratios = variance_ratios(phi, self.anchor, self.clip, self.eps)
        old = Average(state.mu, state.residual)
        mu, residual = smooth(old, ratios, alpha, self.debias, due)
        known = {m: jnp.where(jnp.isfinite(phi[m]), phi[m], state.phi[m]) for m in phi}
        return AgvmState(optax.safe_increment(state.count), mu, known, residual)

    def _labels(
        self, updates: PyTree, state: AgvmState, params: PyTree | None
    ) -> PyTree:
        if params is not None:
            _check_same_tree(updates, params)
        labels = label_tree(updates, self.modules)
        if module_names(labels) != tuple(sorted(state.mu)):
            raise ValueError(
                f"the updates have modules {list(module_names(labels))} but the state "
                f"was made for {sorted(state.mu)}: pass gradients of the same "
                "parameters that init was called with"
            )
        return labels


def _scaled(update: jax.Array, mu: jax.Array) -> jax.Array:
    update = jnp.asarray(update)
    return (wide(update) * mu).astype(update.dtype)


def _known(value: Any) -> bool:
    """Whether a number can be looked at now: not a schedule, not traced."""
    return not callable(value) and not isinstance(value, jax.core.Tracer)


def _check_phi(phi: ModuleScalars, mu: ModuleScalars) -> None:
    if set(phi) != set(mu):
        raise ValueError(
            f"phi has modules {sorted(phi)} but the parameters have {sorted(mu)}: pass "
            "one number for each, nan where there is no measurement"
        )


def _check_same_tree(updates: PyTree, params: PyTree) -> None:
    theirs, ours = leaf_paths(params), leaf_paths(updates)
    if theirs != ours:
        odd = sorted(set(theirs) ^ set(ours)) or ours
        raise ValueError(
            f"params and updates differ in structure, first at {odd[0]!r}: pass the "
            "parameters that the gradients were taken of"
        )
