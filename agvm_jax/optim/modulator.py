"""AGVM itself: measures each module's gradient variance and scales its learning rate."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from agvm_jax.optim.modules import (
    FROZEN,
    Modules,
    is_inexact,
    label_tree,
    leaf_labels,
    leaf_paths,
    module_names,
)
from agvm_jax.optim.reduction import AxisName, mean_and_phi, mean_gradients
from agvm_jax.optim.variance import Estimator, ModuleScalars, Split, check_estimator

PyTree = Any
ScalarOrSchedule = float | jax.Array | Callable[[jax.Array], Any]
Precondition = bool | Callable[[PyTree], PyTree]


class AgvmState(NamedTuple):
    """What AGVM carries from step to step.

    Found in any optimizer state with ``optax.tree.get(opt_state, "AgvmState")``.
    """

    count: jax.Array  # () int32, steps taken
    mu: ModuleScalars  # the factor on each module's learning rate; 1 for the anchor
    phi: ModuleScalars  # last measured 1 - cos; nan before the first measurement
    residual: ModuleScalars  # weight that the initial mu = 1 still has in the average


def agvm(
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
    """Scale the updates that pass, module by module, to the anchor's gradient variance.

    Every ``tau`` steps, with phi_i = 1 - cos of the half-batch gradients of module i::

        r_i  = sqrt(clip((phi_anchor + eps) / (phi_i + eps)))     eq. 4
        mu_i = alpha mu_i + (1 - alpha) r_i                       eq. 5

    and at every step the updates of module i are multiplied by mu_i. A module whose
    gradient is zero or not finite keeps the mu it had.

    Where phi comes from: ``update(..., phi={module: scalar})`` if it is passed; the
    updates are then averaged already (nan says "no measurement"). Else the incoming
    updates are the replicas' own gradients over ``axis_name`` and leave averaged.

    **Adam, LAMB and LARS divide by the gradient's size, so a scale put before them
    cancels.** ``optax.chain(agvm(...), optax.adamw(...))`` runs, averages and records phi
    and mu, and moves the parameters as if AGVM were not there. Use
    ``agvm_jax.chain(agvm(...), optax.adamw(...))`` or ``modulate(optax.adamw(...), ...)``;
    ``modulation_gain`` tells which modules a modulation reaches.

    Args:
      axis_name: the axis of replicas, or None when phi is passed.
      modules: how parameters are grouped, see ``label_tree``; None: top-level keys.
      anchor: the module that the others are scaled to (paper: backbone; Table 7).
      estimator: "halves" (paper) or "replicas" (ours: less noise, see
        ``phi_from_replicas``).
      split: "interleaved" halves (paper) or "contiguous" (released code).
      tau: steps between measurements, a number or a schedule of the step. 10, or 5 above
        batch 1K, in the paper; the released code's class has 5, its configs 10.
      alpha: smoothing of mu, in [0, 1), a number or a schedule (paper: 0.97).
      start_step: first step that measures; mu is 1 before. Released code only: it
        starts 100 steps after the warm-up.
      clip: bounds of the ratio before the root, or None (released code only).
      eps: added to both sides of the ratio (released code only).
      debias: divide out the initial mu = 1, as Adam does with its moments, so that the
        first measurement counts in full (ours; with alpha 0.97 and tau 10 the paper's
        average still has half its initial weight after 230 steps).
      precondition: measure the cosine of ``g / (sqrt(v) + 1e-8)``, v Adam's second
        moment of the step before (released code for AdamW); or a function from the
        state of what follows to such a tree of factors. Needs ``chain`` or ``modulate``.

    Raises:
      ValueError: a value out of range; at ``init`` an anchor that is no module; at
        ``update`` neither axis nor phi, or updates that do not fit the parameters.

    >>> import optax
    >>> params = {"backbone": jnp.ones(2), "head": jnp.ones(2)}
    >>> tx = optax.chain(agvm(alpha=0.0), optax.sgd(0.1))
    >>> grads = {"backbone": jnp.ones(2), "head": jnp.ones(2)}
    >>> phi = {"backbone": 0.8, "head": 0.2}
    >>> updates, state = tx.update(grads, tx.init(params), params, phi=phi)
    >>> print(updates["head"])  # the rate of the head is doubled
    [-0.2 -0.2]
    """
    return AgvmTransformation(
        Modulator(
            axis_name=axis_name,
            modules=modules,
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
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Modulator:
    """The two halves of AGVM, for ``chain`` to put at two places; see ``agvm``."""

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
                f"alpha={self.alpha}: the smoothing lies in [0, 1); 0 keeps only the last "
                "measurement, 1 would keep none"
            )
        if _known(self.start_step) and self.start_step < 0:
            raise ValueError(f"start_step={self.start_step}: a step, at least 0")
        if _known(self.eps) and self.eps < 0:
            raise ValueError(f"eps={self.eps}: at least 0")
        if self.clip is not None:
            low, high = self.clip
            if not 0 <= low <= 1 <= high:
                raise ValueError(
                    f"clip=({low}, {high}): bounds of the variance ratio, (low, high) with "
                    "low <= 1 <= high, since the anchor's own ratio is 1"
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

        def measured(grads: PyTree) -> tuple[PyTree, ModuleScalars]:
            weights = self._weights(grads, inner_state)
            mean, stats = mean_and_phi(
                grads, self.axis_name, labels, self.estimator, self.split, weights
            )
            return mean, stats.phi

        def averaged(grads: PyTree) -> tuple[PyTree, ModuleScalars]:
            nothing = jnp.full((), jnp.nan, jnp.float32)
            mean = mean_gradients(grads, self.axis_name)
            return mean, dict.fromkeys(module_names(labels), nothing)

        if due is True:
            return measured(grads)
        return jax.lax.cond(due, measured, averaged, grads)

    def _weights(self, grads: PyTree, inner_state: PyTree) -> PyTree | None:
        if self.precondition is False:
            return None
        if self.precondition is True:
            weights = adam_weights(inner_state)
        else:
            weights = self.precondition(inner_state)
        if leaf_paths(weights) != leaf_paths(grads):
            raise ValueError(
                "precondition must give one factor for each gradient, but its tree "
                "differs from theirs: freeze parameters with modules= instead of hiding "
                "them from the optimizer"
            )
        return weights

    def _smooth(
        self, state: AgvmState, phi: ModuleScalars, due: jax.Array | bool
    ) -> AgvmState:
        """Fold the ratios of this measurement into mu (eq. 5)."""
        alpha = self.alpha(state.count) if callable(self.alpha) else self.alpha
        alpha = jnp.asarray(alpha, jnp.float32)
        phi = {m: jnp.asarray(phi[m], jnp.float32) for m in state.mu}
        new_mu, new_phi, new_residual = {}, {}, {}
        for m in state.mu:
            ratio = (phi[self.anchor] + self.eps) / (phi[m] + self.eps)
            if self.clip is not None:
                ratio = jnp.clip(ratio, *self.clip)
            root = jnp.sqrt(ratio)
            seen = jnp.isfinite(root) & jnp.isfinite(phi[m]) & due
            residual = state.residual[m] * alpha
            # The average of all roots but the initial 1 moves by a growing share.
            share = jnp.where(self.debias, (1 - alpha) / (1 - residual), 1 - alpha)
            mu = state.mu[m] + share * (root - state.mu[m])
            new_mu[m] = jnp.where(seen, mu, state.mu[m])
            new_residual[m] = jnp.where(seen, residual, state.residual[m])
            new_phi[m] = jnp.where(jnp.isfinite(phi[m]), phi[m], state.phi[m])
        return AgvmState(
            optax.safe_increment(state.count), new_mu, new_phi, new_residual
        )

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


class AgvmTransformation(optax.GradientTransformationExtraArgs):
    """The transformation that ``agvm`` returns; ``chain`` knows it by its type."""

    modulator: Modulator

    def __new__(cls, modulator: Modulator) -> "AgvmTransformation":
        self = super().__new__(cls, modulator.init, modulator.update)
        self.modulator = modulator
        return self


def adam_weights(opt_state: PyTree, eps: float = 1e-8) -> PyTree:
    """Return 1 / (sqrt(v) + eps) from Adam's second moment ``nu`` in a state.

    The released code divides the gradients by this before it takes their cosine.
    """
    try:
        nu = optax.tree.get(opt_state, "nu")
    except KeyError as error:
        raise ValueError(
            "precondition=True found several second moments 'nu' in the optimizer: pass "
            "a function from its state to the tree of factors"
        ) from error
    if nu is None:
        raise ValueError(
            "precondition=True found no second moment 'nu' in the optimizer, which must "
            "be of Adam's kind: use precondition=False, or pass a function from its "
            "state to the tree of factors"
        )
    return jax.tree.map(lambda v: 1.0 / (jnp.sqrt(v.astype(jnp.float32)) + eps), nu)


def _scaled(update: jax.Array, mu: jax.Array) -> jax.Array:
    if not is_inexact(update):
        return update
    update = jnp.asarray(update)
    wide = jnp.promote_types(update.dtype, jnp.float32)
    return (update.astype(wide) * mu).astype(update.dtype)


def _known(value: Any) -> bool:
    """Whether a number can be looked at now: not a schedule, not traced."""
    return not callable(value) and not isinstance(value, jax.core.Tracer)


def _check_phi(phi: ModuleScalars, mu: ModuleScalars) -> None:
    if set(phi) != set(mu):
        raise ValueError(
            f"phi has modules {sorted(phi)} but the parameters have {sorted(mu)}: pass one "
            "number for each, nan where there is no measurement"
        )


def _check_same_tree(updates: PyTree, params: PyTree) -> None:
    theirs, ours = leaf_paths(params), leaf_paths(updates)
    if theirs != ours:
        odd = sorted(set(theirs) ^ set(ours)) or ours
        raise ValueError(
            f"params and updates differ in structure, first at {odd[0]!r}: pass the "
            "parameters that the gradients were taken of"
        )
