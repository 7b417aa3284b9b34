"""AGVM as an Optax transform: scales each module's rate by its gradient variance.

``agvm`` observes gradients and scales updates. Where the two happen in a chain of
transforms is the business of ``chaining.py``.
"""

import dataclasses
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from agvm_jax.optim.equations import (
    AgvmOptions,
    Average,
    AverageKind,
    ScalarOrSchedule,
    is_known,
    smooth,
    variance_ratios,
)
from agvm_jax.optim.modules import (
    Modules,
    check_same_tree,
    label_tree,
    leaf_labels,
    module_names,
)
from agvm_jax.optim.preconditioning import Precondition, find_weights
from agvm_jax.optim.reduction import total_and_stats
from agvm_jax.optim.replicas import AxisName, axis_size, divided
from agvm_jax.optim.variance import Estimator, ModuleScalars, Split, wide

PyTree = Any


class AgvmState(NamedTuple):
    """What AGVM carries from step to step.

    Found in any optimizer state with ``optax.tree.get(opt_state, "AgvmState")``.
    """

    count: jax.Array  # () int32, steps taken
    mu: ModuleScalars  # the factor on each module's learning rate; 1 for the anchor
    phi: ModuleScalars  # last measured 1 - cos; nan before the first measurement
    measured: ModuleScalars  # () float32, measurements that each mu is made of


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
    average: AverageKind = "paper",
    precondition: Precondition = False,
    precondition_eps: float = 1e-8,
    shard_axes: AxisName | PyTree | None = None,
    scale_gradients: bool = False,
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
    cancels.** ``optax.chain(agvm(...), optax.adamw(...))`` runs, averages and records
    phi and mu, and moves the parameters as if AGVM were not there; it warns. Use
    ``agvm_jax.chain(agvm(...), optax.adamw(...))`` or
    ``modulate(optax.adamw(...), ...)``.

    Args:
      axis_name: the axis of replicas, or None when phi is passed.
      modules: how parameters are grouped, see ``label_tree``; None: top-level keys.
      anchor: the module that the others are scaled to (paper: backbone; Table 7).
      estimator: "halves" (paper) or "norms" (ours: less noise, see
        ``phi_from_norms``).
      split: "interleaved" halves (paper) or "contiguous" (released code).
      tau: steps between measurements, a whole number or a schedule of the step, which
        is rounded down and at least 1. 10, or 5 above batch 1K, in the paper; the
        released code's class has 5, its configs 10.
      alpha: smoothing of mu, in [0, 1), a number or a schedule (paper: 0.97). A
        schedule is held to [0, 1].
      start_step: first step that measures; mu is 1 before. Released code only: it
        starts 100 steps after the warm-up.
      clip: bounds of the ratio before the root, or None (released code only).
      eps: added to both sides of the ratio (released code only).
      average: "paper" is eq. 5. "growing" (ours) is for runs of a few hundred steps,
        in which eq. 5 hardly moves: it averages what was measured so far, see
        ``equations.smooth``.
      precondition: measure the cosine of ``g / (sqrt(v) + precondition_eps)``, v Adam's
        second moment of the step before (released code for AdamW); or a function from
        the state of what follows to such a tree of factors. Needs ``chain`` or
        ``modulate``, and counts only where agvm itself measures: with ``phi=``, give
        ``adam_weights(opt_state)`` to whatever measures.
      precondition_eps: the optimizer's own eps.
      shard_axes: further manual mesh axes that hold shards of parameters, see
        ``mean_and_phi``.
      scale_gradients: apply the scale where agvm stands, as ``optax.chain`` does
        anyway; says that what follows is linear in the gradient. Right for SGD, with
        momentum only while mu stands still: eq. 4 scales m_t, not the gradients in it.

    Raises:
      ValueError: a value out of range; at ``init`` an anchor that is no module; at
        ``update`` neither axis nor phi, or updates that do not fit the parameters.

    >>> from jax import numpy as jnp
    >>> params = {"backbone": jnp.ones(2), "head": jnp.ones(2)}
    >>> tx = optax.chain(agvm(alpha=0.0, scale_gradients=True), optax.sgd(0.1))
    >>> grads = {"backbone": jnp.ones(2), "head": jnp.ones(2)}
    >>> phi = {"backbone": 0.8, "head": 0.2}
    >>> updates, state = tx.update(grads, tx.init(params), params, phi=phi)
    >>> round(float(updates["head"][0] / updates["backbone"][0]), 3)
    2.0
    """
    options = AgvmOptions(
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
    )
    modulator = Modulator(options, axis_name, modules, shard_axes, scale_gradients)
    # chain() finds the modulator again as the owner of these two methods.
    return optax.GradientTransformationExtraArgs(modulator.init, modulator.update)


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


def warn_of_scaled_gradients() -> None:
    """Warn, where a program is traced, that a scale stands in front of something."""
    warnings.warn(
        "agvm scales gradients here, and Adam, LAMB, LARS and every optimizer that "
        "divides by the gradient's size cancel that: write agvm_jax.chain(agvm(...), "
        "optimizer) or modulate(optimizer, ...) instead of optax.chain. If what "
        "follows is linear in the gradient (SGD), or agvm comes last, say "
        "agvm(scale_gradients=True)",
        stacklevel=3,
    )


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
