"""Equations 4 and 5: from one measurement of phi to the modulation mu."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from agvm_jax.optim.variance import ModuleScalars


class Average(NamedTuple):
    """mu of each module, and how much of the mu = 1 it began with is still in it."""

    mu: ModuleScalars
    residual: ModuleScalars


def variance_ratios(
    phi: ModuleScalars,
    anchor: str,
    clip: tuple[float, float] | None = (0.5, 10.0),
    eps: float | jax.Array = 1e-6,
) -> ModuleScalars:
    """Return sqrt(clip((phi_anchor + eps) / (phi_i + eps))) of each module (eq. 4).

    Clipping before the root and eps are the released code's. nan where a phi is nan.

    >>> phi = {"backbone": jnp.array(0.8), "fpn": jnp.array(0.2)}
    >>> {m: round(float(r), 3) for m, r in variance_ratios(phi, "backbone").items()}
    {'backbone': 1.0, 'fpn': 2.0}
    """
    ratios = {m: (phi[anchor] + eps) / (phi[m] + eps) for m in phi}
    if clip is not None:
        ratios = {m: jnp.clip(ratio, *clip) for m, ratio in ratios.items()}
    return {m: jnp.sqrt(ratio) for m, ratio in ratios.items()}


def smooth(
    old: Average,
    ratios: ModuleScalars,
    alpha: float | jax.Array,
    debias: bool | jax.Array = False,
    due: bool | jax.Array = True,
) -> Average:
    """Return mu after ``mu <- alpha mu + (1 - alpha) r`` (eq. 5).

    Args:
      old: the average before.
      ratios: r of each module; one that is not finite leaves its module as it was.
      alpha: the smoothing.
      debias: divide the initial 1 out, which the average would else hold on to with a
        weight of ``residual``, the product of all alphas so far.
      due: whether this measurement counts at all.

    >>> start = Average({"fpn": jnp.array(1.0)}, {"fpn": jnp.array(1.0)})
    >>> float(smooth(start, {"fpn": jnp.array(2.0)}, alpha=0.75).mu["fpn"])
    1.25
    >>> float(smooth(start, {"fpn": jnp.array(2.0)}, 0.75, debias=True).mu["fpn"])
    2.0
    """
    mu, residual = {}, {}
    for m, ratio in ratios.items():
        seen = jnp.isfinite(ratio) & due
        left = old.residual[m] * alpha
        # The mean of all measurements but the initial 1, as a step towards the newest.
        step = jnp.where(debias, (1 - alpha) / (1 - left), 1 - alpha)
        mu[m] = jnp.where(seen, old.mu[m] + step * (ratio - old.mu[m]), old.mu[m])
        residual[m] = jnp.where(seen, left, old.residual[m])
    return Average(mu, residual)
