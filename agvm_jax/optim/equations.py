"""Equations 4 and 5: from one measurement of phi to mu, and their options."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from agvm_jax.optim.preconditioning import Precondition
from agvm_jax.optim.variance import Estimator, ModuleScalars, Split, check_estimator

ScalarOrSchedule = float | jax.Array | Callable[[jax.Array], Any]

# How mu is averaged: eq. 5 as it stands, or with a memory that grows.
AverageKind = Literal["paper", "growing"]

# What the initial mu = 1 counts for beside the measurements of a growing average. The
# first measurement then has a weight of 1/5: with the released code's bounds mu cannot
# go above 1.43 at once, where an average without it may jump to 3.16.
INITIAL_COUNT = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgvmOptions:
    """How phi becomes mu, and when; see ``agvm`` for each field."""

    anchor: str = "backbone"
    estimator: Estimator = "halves"
    split: Split = "interleaved"
    tau: ScalarOrSchedule = 10
    alpha: ScalarOrSchedule = 0.97
    start_step: int = 0
    clip: tuple[float, float] | None = (0.5, 10.0)
    eps: float = 1e-6
    average: AverageKind = "paper"
    precondition: Precondition = False
    precondition_eps: float = 1e-8

    def __post_init__(self) -> None:
        check_estimator(self.estimator, self.split)
        if self.average not in ("paper", "growing"):
            raise ValueError(
                f"average={self.average!r} is unknown: use 'paper' (eq. 5) or "
                "'growing' (for short runs)"
            )
        # inject_hyperparams hands in traced values; those cannot be looked at. Known
        # arrays become numbers first: what is computed of them inside of a lax.cond,
        # as optax.conditionally_mask has one, would be traced.
        if is_known(self.tau) and not _is_whole(self.tau, 1):
            raise ValueError(
                f"tau={self.tau}: steps between measurements, a whole number from 1 on"
            )
        if is_known(self.alpha) and not 0 <= np.float32(self.alpha) < 1:
            raise ValueError(
                f"alpha={self.alpha}: the smoothing lies in [0, 1) as a float32; 0 "
                "keeps only the last measurement, 1 would never take one in"
            )
        start = self.start_step
        if is_known(start) and not _is_whole(start, 0):
            raise ValueError(f"start_step={start}: a step, a whole number from 0 on")
        for name in ("eps", "precondition_eps"):
            value = getattr(self, name)
            if is_known(value) and not 0 <= float(value) < math.inf:
                raise ValueError(f"{name}={value}: a finite number, at least 0")
        if self.clip is not None:
            low, high = self.clip
            if not 0 <= low <= 1 <= high:
                raise ValueError(
                    f"clip=({low}, {high}): bounds of the variance ratio, (low, high) "
                    "with 0 <= low <= 1 <= high, since the anchor's own ratio is 1"
                )

    def due(self, step: int | jax.Array) -> bool | jax.Array:
        """Whether the step with this number, from 0 on, takes a measurement.

        On the host, where tau is a number and so is the step, the answer is a bool.
        """
        tau = self.tau(jnp.asarray(step)) if callable(self.tau) else self.tau
        if is_known(tau) and is_known(step) and is_known(self.start_step):
            step = int(step)
            return step >= int(self.start_step) and step % max(int(tau), 1) == 0
        tau = jnp.maximum(jnp.asarray(tau).astype(jnp.int32), 1)
        return (step >= self.start_step) & (step % tau == 0)


class Average(NamedTuple):
    """mu of each module, and how many measurements it was made of."""

    mu: ModuleScalars
    measured: ModuleScalars


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
    average: AverageKind = "paper",
    due: bool | jax.Array = True,
) -> Average:
    """Return mu after ``mu <- alpha mu + (1 - alpha) r`` (eq. 5).

    Args:
      old: the average before.
      ratios: r of each module; one that is not finite leaves its module as it was.
      alpha: the smoothing; what lies outside [0, 1] is taken to its nearer end, and
        nan counts as no measurement.
      average: "paper" smooths with alpha from the first measurement on. "growing" is
        for short runs: the plain mean of the measurements so far and of
        ``INITIAL_COUNT`` ones, until its memory is that of alpha.
      due: whether this measurement counts at all.

    >>> start = Average({"fpn": jnp.array(1.0)}, {"fpn": jnp.array(0.0)})
    >>> float(smooth(start, {"fpn": jnp.array(2.0)}, alpha=0.75).mu["fpn"])
    1.25
    >>> mean = smooth(start, {"fpn": jnp.array(2.0)}, 0.97, "growing")
    >>> round(float(mean.mu["fpn"]), 3)  # (1 + 1 + 1 + 1 + 2) / 5
    1.2
    """
    alpha = jnp.clip(jnp.asarray(alpha, jnp.float32), 0.0, 1.0)
    mu, measured = {}, {}
    for m, ratio in ratios.items():
        seen = jnp.isfinite(ratio) & due & ~jnp.isnan(alpha)
        keep = alpha
        if average == "growing":
            count = old.measured[m] + INITIAL_COUNT
            keep = jnp.minimum(alpha, count / (count + 1.0))
        new = old.mu[m] + (1.0 - keep) * (ratio - old.mu[m])
        mu[m] = jnp.where(seen, new, old.mu[m])
        measured[m] = old.measured[m] + seen
    return Average(mu, measured)


def _is_whole(value: Any, least: int) -> bool:
    """Whether this is a whole number from ``least`` on; nan and inf are none."""
    return float(value).is_integer() and float(value) >= least


def is_known(value: Any) -> TypeGuard[float]:
    """Whether a number can be looked at now: not a schedule, not traced."""
    return not callable(value) and not isinstance(value, Tracer)
