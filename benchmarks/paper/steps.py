"""Images to a target against the batch: where does a larger batch stop to pay?

The rate stays constant after the warm-up and the averaged weights are evaluated, so one
run tells of every target: no schedule has to know when the run will end. A run stops at
the highest target. For every batch the best of its rates counts, for each target.

MLPerf's convergence points have the same shape, E(B) = E0 (1 + B / Bc).
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from scipy import optimize

from benchmarks.paper.cells import Cell, Runs
from benchmarks.paper.grids import Sweep
from benchmarks.paper.methods import METHODS

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

NAMES = ("adamw", "agvm_adamw")
BATCHES = (512, 128, 2048, 32, 8)  # the middle is known first
TARGETS = (0.02, 0.04, 0.06, 0.08)
VARIANT = (
    ("optim.schedule", "constant"),
    ("run.evaluations", 24),
    ("run.images", 262_144),
    ("run.target", TARGETS[-1]),
)
PLACES = (0, -1, 1)
FURTHEST = 4  # doublings from the middle that a sweep goes on to


def images_to(target: float, ap_at: Mapping[str, float]) -> float:
    """Return the images after which AP first reached a target; inf if it never did.

    Between two evaluations AP is taken as linear in the logarithm of the images.

    >>> round(images_to(0.03, {"1000": 0.02, "4000": 0.04}))
    2000
    >>> images_to(0.5, {"1000": 0.02})
    inf
    """
    before = None
    for images, ap in sorted((int(k), v) for k, v in ap_at.items()):
        if ap >= target:
            if before is None:
                return float(images)
            share = (target - before[1]) / (ap - before[1])
            low, high = math.log(before[0]), math.log(images)
            return math.exp(low + share * (high - low))
        before = images, ap
    return math.inf


def cells_of(name: str, batch: int, runs: Runs) -> list[Cell]:
    """Return a method's cells at a batch, going on while the best is at an end."""
    sweep = Sweep(METHODS[name], batch, VARIANT)
    places = list(PLACES)
    while True:
        needed = {place: _needed(runs.result(sweep.cell(place))) for place in places}
        if None in needed.values():
            break
        best = min(places, key=lambda place: needed[place])
        beyond = {max(places): best + 1, min(places): best - 1}.get(best)
        if beyond is None or abs(beyond) > FURTHEST or needed[best] == (math.inf,):
            break
        places.append(beyond)
    return [sweep.cell(place) for place in places]


def wanted(runs: Runs) -> list[Cell]:
    """Return all cells of the table."""
    return [
        cell
        for batch in BATCHES
        for name in NAMES
        for cell in cells_of(name, batch, runs)
    ]


def _needed(result: Any) -> tuple[float, ...] | None:
    """Order runs by the highest target that they reach, then by the images to it."""
    if result is None:
        return None
    reached = [images_to(target, result["ap_at"]) for target in TARGETS]
    finite = [images for images in reached if math.isfinite(images)]
    return (-len(finite), finite[-1]) if finite else (math.inf,)


def best_images(name: str, target: float, runs: Runs) -> dict[int, tuple[float, Cell]]:
    """Return batch -> fewest images to a target over the rates, and its cell."""
    found = {}
    for batch in sorted(BATCHES):
        options = []
        for cell in cells_of(name, batch, runs):
            result = runs.result(cell)
            if result is not None:
                options.append((images_to(target, result["ap_at"]), cell.rate, cell))
        if options:
            images, _, cell = min(options, key=lambda option: option[:2])
            found[batch] = images, cell
    return found


def fit(images: Mapping[int, float]) -> tuple[float, float] | None:
    """Return (E0, Bc) of E = E0 (1 + B / Bc), least squares of the logarithms.

    None with fewer than three batches that reached the target.

    >>> e0, bc = fit({8: 1000 * (1 + 8 / 64), 64: 2000.0, 512: 9000.0})
    >>> round(e0), round(bc)
    (1000, 64)
    """
    points = [(b, e) for b, e in images.items() if math.isfinite(e)]
    if len(points) < 3:
        return None
    batches, needed = np.array(points).T

    def misfit(logs):
        e0, bc = np.exp(logs)
        return np.log(e0 * (1 + batches / bc)) - np.log(needed)

    start = np.log([needed.min(), np.median(batches)])
    e0, bc = np.exp(optimize.least_squares(misfit, start).x)
    return float(e0), float(bc)


def report(runs: Runs) -> str:
    """Return images to each target by batch, fits and noise scales in Markdown."""
    from benchmarks.paper.tables import table  # tables import nothing of this file

    batches = sorted(BATCHES)
    rows = []
    for target in TARGETS:
        for name in NAMES:
            found = best_images(name, target, runs)
            fitted = fit({batch: images for batch, (images, _) in found.items()})
            rows.append(
                (
                    f"{100 * target:g}",
                    METHODS[name].title,
                    *(_images(found.get(batch)) for batch in batches),
                    *([f"{number:,.0f}" for number in fitted] if fitted else ["", ""]),
                )
            )
    header = ["AP", "method", *(f"B = {batch}" for batch in batches), "E0", "Bc"]
    return table(header, rows) + "\n\n" + _noise(runs)


def _images(entry: tuple[float, Cell] | None) -> str:
    if entry is None:
        return "-"
    images, cell = entry
    if math.isinf(images):
        return "x"
    return f"{images / 1000:.1f}k ({images / cell.batch:,.0f} steps)"


def _noise(runs: Runs) -> str:
    scales = [
        f"{name} {_scale(name, runs)}"
        for name in NAMES
        if any(runs.result(cell) for cell in wanted(runs))
    ]
    return f"Noise scale at the last target, images, batch 512: {'; '.join(scales)}."


def _scale(name: str, runs: Runs) -> str:
    best = best_images(name, TARGETS[-1], runs).get(512)
    result = runs.result(best[1]) if best else None
    if not result:
        return "not measured yet"
    parts = [f"{module} {value:,.0f}" for module, value in result["noise"].items()]
    return ", ".join(parts)


def draw(runs: Runs, path: Path, targets: Sequence[float] = TARGETS) -> None:
    """Images to each target against the batch, with fits and the noise scale."""
    figure, axis = plt.subplots(figsize=(7, 4.6))
    for index, target in enumerate(targets):
        for name, style in zip(NAMES, ("s--", "o-"), strict=True):
            found = best_images(name, target, runs)
            good = {b: e for b, (e, _) in found.items() if math.isfinite(e)}
            if good:
                label = f"AP {100 * target:g}, {METHODS[name].title}"
                axis.plot(
                    *zip(*sorted(good.items()), strict=True),
                    style,
                    color=f"C{index}",
                    label=label,
                )
    best = best_images("adamw", targets[-1], runs).get(512)
    result = runs.result(best[1]) if best else None
    if result and result["noise"].get("all"):
        axis.axvline(result["noise"]["all"], color="k", lw=0.8, ls=":")
    axis.set(xscale="log", yscale="log", xlabel="batch", ylabel="images to the target")
    axis.grid(alpha=0.3, which="both")
    if axis.has_data():
        axis.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
