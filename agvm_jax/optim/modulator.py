"""AGVM as an Optax transform: scales each module's rate by its gradient variance."""

import optax

from agvm_jax.optim.core import AgvmState, Modulator, ScalarOrSchedule
from agvm_jax.optim.modules import Modules
from agvm_jax.optim.preconditioning import Precondition
from agvm_jax.optim.replicas import AxisName
from agvm_jax.optim.variance import Estimator, Split

__all__ = ["AgvmState", "AgvmTransformation", "agvm"]


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
    cancels.** ``optax.chain(agvm(...), optax.adamw(...))`` runs, averages and records
    phi and mu, and moves the parameters as if AGVM were not there. Use
    ``agvm_jax.chain(agvm(...), optax.adamw(...))`` or
    ``modulate(optax.adamw(...), ...)``; ``modulation_gain`` tells which modules a
    modulation reaches.

    Args:
      axis_name: the axis of replicas, or None when phi is passed.
      modules: how parameters are grouped, see ``label_tree``; None: top-level keys.
      anchor: the module that the others are scaled to (paper: backbone; Table 7).
      estimator: "halves" (paper) or "replicas" (ours: less noise, see
        ``phi_from_replicas``).
      split: "interleaved" halves (paper) or "contiguous" (released code).
      tau: steps between measurements, a number or a schedule of the step. 10, or 5
        above batch 1K, in the paper; the released code's class has 5, its configs 10.
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
        state of what follows to such a tree of factors. Needs ``chain`` or
        ``modulate``, and counts only where agvm itself measures: with ``phi=``, give
        ``adam_weights(opt_state)`` to whatever measures.

    Raises:
      ValueError: a value out of range; at ``init`` an anchor that is no module; at
        ``update`` neither axis nor phi, or updates that do not fit the parameters.

    >>> from jax import numpy as jnp
    >>> params = {"backbone": jnp.ones(2), "head": jnp.ones(2)}
    >>> tx = optax.chain(agvm(alpha=0.0), optax.sgd(0.1))
    >>> grads = {"backbone": jnp.ones(2), "head": jnp.ones(2)}
    >>> phi = {"backbone": 0.8, "head": 0.2}
    >>> updates, state = tx.update(grads, tx.init(params), params, phi=phi)
    >>> round(float(updates["head"][0] / updates["backbone"][0]), 3)
    2.0
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


class AgvmTransformation(optax.GradientTransformationExtraArgs):
    """The transformation that ``agvm`` returns; ``chain`` knows it by its type."""

    modulator: Modulator

    def __new__(cls, modulator: Modulator) -> "AgvmTransformation":
        self = super().__new__(cls, modulator.init, modulator.update)
        self.modulator = modulator
        return self
