"""The options of AGVM, and which groups of gradients can be measured how."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from agvm_jax.optim.preconditioning import Precondition

Estimator = Literal["halves", "norms"]
Split = Literal["interleaved", "contiguous"]
ScalarOrSchedule = float | jax.Array | Callable[[jax.Array], Any]

# How mu is averaged: eq. 5 as it stands, or with a memory that grows.
AverageKind = Literal["paper", "growing"]


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


def _is_whole(value: Any, least: int) -> bool:
    """Whether this is a whole number from ``least`` on; nan and inf are none."""
    return float(value).is_integer() and float(value) >= least


def is_known(value: Any) -> TypeGuard[float]:
    """Whether a number can be looked at now: not a schedule, not traced."""
    return not callable(value) and not isinstance(value, Tracer)


def check_groups(num_groups: int, estimator: str, split: str) -> None:
    """Raise a ValueError where this many groups cannot be measured this way."""
    check_estimator(estimator, split)
    if num_groups < 2:
        raise ValueError(
            f"{num_groups} group of gradients has no variance to measure: use at least "
            "two replicas, or two micro-batches with GroupPlan"
        )
    if estimator == "halves" and num_groups % 2:
        raise ValueError(
            f"estimator='halves' cannot split {num_groups} groups in two equal halves: "
            "use estimator='norms', which takes any number, or an even number"
        )


def check_estimator(estimator: str, split: str) -> None:
    """Raise a ValueError for an estimator or split that does not exist."""
    if estimator == "replicas":
        raise ValueError(
            "estimator='replicas' is called 'norms' now: its groups may be "
            "micro-batches as well"
        )
    if estimator not in ("halves", "norms"):
        raise ValueError(
            f"estimator={estimator!r} is unknown: use 'halves' (the paper) or 'norms'"
        )
    if split not in ("interleaved", "contiguous"):
        raise ValueError(
            f"split={split!r} is unknown: use 'interleaved' (the paper) or "
            "'contiguous' (the released code)"
        )
