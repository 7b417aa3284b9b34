"""Figures of a grid: bars with their seeds, sweeps of the rate, differences."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

from benchmarks.paper.cells import failed
from benchmarks.paper.tables import Line, differences

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import LogLocator, NullFormatter  # noqa: E402

BASE, AGVM, CONTROL = "#7f8c8d", "#c0392b", "#2980b9"


def colour(line: Line) -> str:
    method = line.sweep.method
    return AGVM if method.modulated else CONTROL if method.control_of else BASE


def draw_bars(batches: Mapping[int, Sequence[Line]], path: Path) -> None:
    """Score (bars, a dot a seed, x: failed) and time of every method and batch."""
    figure, axes = plt.subplots(
        2,
        len(batches),
        figsize=(5.2 * len(batches), 5.6),
        height_ratios=(3, 1),
        sharey="row",
        squeeze=False,
    )
    for column, (batch, lines) in enumerate(batches.items()):
        score, time = axes[0][column], axes[1][column]
        for place, line in enumerate(lines):
            values = 100 * np.array(list(line.scores().values()))
            if len(values) and line.settled:
                score.bar(place, values.mean(), color=colour(line), alpha=0.75)
                score.plot([place] * len(values), values, "k.", ms=5)
                milliseconds = 1000 * min(
                    result["processor_a_step"] for result in line.seeds.values()
                )
                time.bar(place, milliseconds / batch, color=colour(line), alpha=0.75)
            elif line.settled:
                score.text(place, 0, "x", ha="center", va="bottom", fontsize=16)
        for axis in (score, time):
            axis.set_xlim(-0.6, len(lines) - 0.4)
        names = [_wrapped(line.sweep.title) for line in lines]
        score.set_title(f"batch {batch}")
        score.set_xticks([])
        time.set_xticks(range(len(lines)), names, rotation=60, ha="right", fontsize=8)
    axes[0][0].set_ylabel("AP, mean over seeds (dots)")
    axes[1][0].set_ylabel("processor ms\nan image")
    _save(figure, path)


def draw_sweeps(batches: Mapping[int, Sequence[Line]], path: Path) -> None:
    """AP against the rate, seed 0; a failure stands at 0 as an x."""
    figure, axes = plt.subplots(
        1, len(batches), figsize=(5.2 * len(batches), 4), squeeze=False, sharey=True
    )
    for axis, (batch, lines) in zip(axes[0], batches.items(), strict=True):
        for index, line in enumerate(lines):
            done = [(c.rate, r) for c, r in line.rates if r is not None]
            if not done:
                continue
            rates = [rate for rate, _ in done]
            scores = [0 if failed(r) else 100 * r["AP"] for _, r in done]
            (drawn,) = axis.plot(
                rates,
                scores,
                "o-" if line.sweep.method.modulated else "s--",
                ms=4,
                color=f"C{index}",
                label=line.sweep.title,
            )
            lost = [rate for rate, r in done if failed(r)]
            axis.plot(lost, [0] * len(lost), "x", ms=9, color=drawn.get_color())
        axis.set(xscale="log", xlabel="learning rate", title=f"batch {batch}")
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("AP, seed 0 (x: failed)")
    axes[0][0].legend(frameon=False, fontsize=8)
    _save(figure, path)


def draw_differences(batches: Mapping[int, Sequence[Line]], path: Path) -> None:
    """Paired differences of AP with 95 % intervals."""
    rows = [
        (f"{batch}: {o.sweep.title} - {t.sweep.title}", difference)
        for batch, lines in batches.items()
        for o, t, difference in differences(lines)
        if difference.count > 1
    ]
    if not rows:
        return
    figure, axis = plt.subplots(figsize=(8, 0.6 + 0.34 * len(rows)))
    for place, (_, difference) in enumerate(reversed(rows)):
        shown = {"better": AGVM, "worse": "k"}.get(difference.verdict, BASE)
        axis.plot(
            [100 * difference.low, 100 * difference.high], [place] * 2, color=shown
        )
        axis.plot(100 * difference.mean, place, "o", color=shown)
    axis.axvline(0, color="k", lw=0.8)
    axis.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)], fontsize=8)
    axis.set_xlabel("difference of AP, 95 % interval over paired seeds")
    _save(figure, path)


def draw_runs(curves: Mapping[str, Mapping[str, np.ndarray]], path: Path) -> None:
    """Loss, and the FPN's gradient, phi and mu, of runs beside each other.

    Args:
      curves: title -> what `Trainer.run` gives as a run's curve.
      path: of the picture.
    """
    rows = {
        "loss": "loss",
        "gradient's norm, FPN": "grad_norm/fpn",
        "phi, FPN": "phi/fpn",
        "mu, FPN": "mu/fpn",
    }
    figure, axes = plt.subplots(len(rows), 1, figsize=(7, 7.5), sharex=True)
    for axis, (name, key) in zip(axes, rows.items(), strict=True):
        for (title, curve), color in zip(curves.items(), (BASE, AGVM), strict=False):
            values = curve.get(key, np.ones_like(curve["step"], float))
            axis.plot(curve["step"], values, color=color, label=title)
        axis.set_ylabel(name)
        axis.grid(alpha=0.3)
        if key in ("grad_norm/fpn", "phi/fpn"):
            axis.set_yscale("log")
    axes[0].legend(frameon=False)
    axes[-1].set_xlabel("step")
    _save(figure, path)


def _wrapped(title: str) -> str:
    return title.replace(", ", ",\n")


def _save(figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
