"""What is kept of the scalars of every step."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

CURVE_POINTS = 128  # rows of a curve; a longer run is averaged over windows


# Of a rate of 1, see `program.carry_rate`.
LEFT_OUT = ("update_variance/",)


def gather(kept: Sequence[Mapping[str, float]]) -> dict[str, np.ndarray]:
    """Return one array a scalar; nan where a step did not give it."""
    names = [
        name
        for name in dict.fromkeys(name for metrics in kept for name in metrics)
        if not name.startswith(LEFT_OUT)
    ]
    return {
        name: np.array([metrics.get(name, np.nan) for metrics in kept])
        for name in names
    }


def summary(curve: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return loss at the end, steps skipped, and the means of phi and mu."""
    total = len(curve["loss"])
    last = curve["loss"][-max(total // 10, 1) :]
    middle = slice(total // 8, total // 2)  # after warm-up, at the full rate

    def of_modules(prefix: str, reduce) -> dict[str, float]:
        found = {
            key.removeprefix(prefix): curve[key]
            for key in curve
            if key.startswith(prefix)
        }
        return {name: float(reduce(values)) for name, values in found.items()}

    return {
        "loss": float(np.mean(last)),
        "skipped": int(np.sum(curve["finite"] == 0)),
        "phi": of_modules("phi/", lambda values: _mean(values[middle])),
        "mu_mean": of_modules("mu/", np.mean),
        "mu_max": of_modules("mu/", np.max),
    }


def windows(curve: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the curve averaged over windows, at most `CURVE_POINTS` of them.

    Steps that did not give a scalar are left out of its average.
    """
    total = len(curve["loss"])
    edges = np.unique(np.linspace(0, total, CURVE_POINTS + 1).astype(int))
    averaged = {}
    for key, values in curve.items():
        # A loss that is not finite has to stay visible.
        known = np.isfinite(values) | (key == "loss")
        sums = np.add.reduceat(np.where(known, values, 0.0), edges[:-1])
        counts = np.add.reduceat(known, edges[:-1].astype(int), dtype=float)
        averaged[key] = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return {"step": edges[1:], **averaged}


def trouble(curve: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return what a curve tells of spikes and of modules that stopped to learn.

    The numbers: spike, the most that the loss rose above its least value before, after
    the warm-up; spike_step, where that was; spike_mu, mu of each module there; and
    grad_end, the norm of each module's gradient over the last tenth of the run as a
    share of its median over the run. A dead module has none.
    """
    step, loss = curve["step"], curve["loss"]
    after = np.flatnonzero(step > step[-1] / 8)
    lowest = np.minimum.accumulate(np.where(np.isfinite(loss), loss, np.inf))
    rises = np.where(np.isfinite(loss), loss - lowest, np.inf)[after]
    place = after[int(np.argmax(rises))]
    last = slice(-max(len(step) // 10, 1), None)
    ends = {}
    for key, values in curve.items():
        if key.startswith("grad_norm/"):
            median = np.median(values)
            ends[key.removeprefix("grad_norm/")] = float(values[last].mean() / median)
    mu = {
        key.removeprefix("mu/"): float(values[place])
        for key, values in curve.items()
        if key.startswith("mu/")
    }
    return {
        "spike": float(rises.max()),
        "spike_step": int(step[place]),
        "spike_mu": mu,
        "grad_end": ends,
    }


def _mean(values: np.ndarray) -> float:
    """Return the mean of what is not nan; nan if nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else np.nan
