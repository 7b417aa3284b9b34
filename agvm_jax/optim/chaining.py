"""What users write: ``agvm``, and ``chain`` or ``modulate`` to put an optimizer in it.

``agvm`` observes gradients and scales updates; where the two happen in a chain of
transforms is what ``chain`` decides.
"""

from typing import Any

import optax

from agvm_jax.optim.modulation import Chained, Modulator, modulator_of
from agvm_jax.optim.modules import Modules
from agvm_jax.optim.options import (
    AgvmOptions,
    AverageKind,
    Estimator,
    ScalarOrSchedule,
    Split,
)
from agvm_jax.optim.preconditioning import Precondition
from agvm_jax.optim.replicas import AxisName

PyTree = Any


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
        ``variance.smooth``.
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
