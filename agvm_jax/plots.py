"""Curves of a training run, drawn from its metrics.jsonl."""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers tell apart; yellow is left out
# because it vanishes on white. A module has the same colour in every figure.
COLORS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#6B5B95",
)  # fmt: skip
MODULE_COLORS = {
    "backbone": "#222222",
    "fpn": "#0072B2",
    "rpn": "#009E73",
    "head": "#D55E00",
    "box_head": "#D55E00",
    "mask_head": "#CC79A7",
    "semantic_head": "#E69F00",
}


class Series(NamedTuple):
    """One metric over the run: (N,) steps, rising, and (N,) values, NaN for gaps."""

    steps: np.ndarray
    values: np.ndarray


def read_metrics(path: str | os.PathLike[str]) -> dict[str, Series]:
    """Read a metrics.jsonl: one JSON object a line, each with a "step".

    A line that is broken, as the last may be after a kill, or that has no step is
    passed over; `null` is NaN; what is not a number is ignored. When steps go back,
    because a run was resumed from an earlier checkpoint, the later lines count.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            step = record.get("step") if isinstance(record, dict) else None
            if not _is_number(step) or not math.isfinite(step):
                continue
            for name, value in record.items():
                if name == "step" or not (value is None or _is_number(value)):
                    continue
                series = points.setdefault(name, [])
                while series and series[-1][0] >= step:
                    series.pop()
                series.append((step, math.nan if value is None else value))
    return {name: Series(*np.array(found, float).T) for name, found in points.items()}


def smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Centred moving average over `width` entries of a running median of five.

    Centred, so that a falling curve is not drawn late; the median keeps one wild step
    from bending the line. Entries that are not finite are left out and stay NaN.
    """
    finite = np.isfinite(values)
    result = np.full(len(values), np.nan)
    kept = np.asarray(values, float)[finite]
    if kept.size < 5:
        result[finite] = kept
        return result
    padded = np.pad(kept, 2, mode="reflect")
    kept = np.median(np.lib.stride_tricks.sliding_window_view(padded, 5), axis=1)
    sums = np.concatenate([[0.0], np.cumsum(kept)])
    index = np.arange(len(kept))
    low = np.maximum(index - width // 2, 0)
    high = np.minimum(index + width // 2 + 1, len(kept))
    result[finite] = (sums[high] - sums[low]) / (high - low)
    return result


def plot_run(
    metrics_path: str | os.PathLike[str], out_dir: str | os.PathLike[str]
) -> list[Path]:
    """Draw a run's curves as PNG files and return their paths.

    loss, learning rate, phi and mu of each module, AP, images per second; a figure
    whose metrics are absent is not drawn. `overview.png` holds them all.
    """
    metrics = read_metrics(metrics_path)
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    panels = {name: draw for name, draw in PANELS.items() if _keys(metrics, name)}
    paths = []
    for name, draw in panels.items():
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        draw(figure.add_subplot(), metrics)
        paths.append(_save(figure, out_dir / f"{name}.png"))
    if len(panels) > 1:
        columns = 2 if len(panels) < 5 else 3
        rows = math.ceil(len(panels) / columns)
        figure = Figure(figsize=(6 * columns, 3.8 * rows), layout="constrained")
        for k, draw in enumerate(panels.values(), 1):
            draw(figure.add_subplot(rows, columns, k), metrics)
        paths.append(_save(figure, out_dir / "overview.png"))
    return paths


def _draw_loss(axes: Axes, metrics: Mapping[str, Series]) -> None:
    names = _keys(metrics, "loss")
    _dress(axes, "Training loss", "loss")
    for k, name in enumerate(names):
        if name == "loss":
            _curve(axes, metrics[name], "#222222", "total")
        else:
            part = name.removeprefix("loss/")
            _curve(axes, metrics[name], COLORS[k % len(COLORS)], part)
    _legend(axes)
    axes.set_ylim(*_robust_limits([metrics[name] for name in names]))


def _draw_lr(axes: Axes, metrics: Mapping[str, Series]) -> None:
    _dress(axes, "Learning rate", "learning rate")
    _curve(axes, metrics["lr"], COLORS[0], "lr", smoothed=False)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")


def _draw_phi(axes: Axes, metrics: Mapping[str, Series]) -> None:
    _dress(axes, "Relative gradient variance of each module", "phi = 1 − cosine")
    for k, name in enumerate(_keys(metrics, "phi")):
        _curve(axes, metrics[name], _module_color(name, k), name.removeprefix("phi/"))
    axes.set_ylim(bottom=0)
    _legend(axes)


def _draw_mu(axes: Axes, metrics: Mapping[str, Series]) -> None:
    _dress(axes, "Modulation of each module's learning rate", "mu, factor on the rate")
    axes.axhline(1.0, color="#888888", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for k, name in enumerate(_keys(metrics, "mu")):
        # mu is a moving average already.
        color, label = _module_color(name, k), name.removeprefix("mu/")
        _curve(axes, metrics[name], color, label, smoothed=False)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.9), max(high, 1.1))
    _legend(axes)


def _draw_ap(axes: Axes, metrics: Mapping[str, Series]) -> None:
    _dress(axes, "Average precision on the validation set", "AP, percent")
    for k, name in enumerate(_keys(metrics, "ap")):
        series = metrics[name]
        percent = np.where(series.values < 0, np.nan, 100 * series.values)
        axes.plot(
            series.steps, percent, color=COLORS[k % len(COLORS)], marker="o",
            markersize=4, linewidth=1.8, label=name.removeprefix("eval/"),
        )  # fmt: skip
    axes.set_ylim(0, 100)
    _legend(axes)


def _draw_speed(axes: Axes, metrics: Mapping[str, Series]) -> None:
    _dress(axes, "Training speed", "images per second")
    _curve(axes, metrics["images_per_second"], COLORS[2], "images/s")
    axes.set_ylim(bottom=0)


PANELS: dict[str, Callable[[Axes, Mapping[str, Series]], None]] = {
    "loss": _draw_loss,
    "lr": _draw_lr,
    "phi": _draw_phi,
    "mu": _draw_mu,
    "ap": _draw_ap,
    "speed": _draw_speed,
}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _keys(metrics: Mapping[str, Series], panel: str) -> list[str]:
    """The metrics a panel shows; those without one finite value are left out."""
    wanted: Sequence[str]
    lowest = -math.inf
    if panel == "ap":
        wanted = [f"eval/{name}" for name in ("AP", "AP50", "AP75")]
        lowest = 0.0  # -1 stands for "nothing to find"
    elif panel == "speed":
        wanted = ["images_per_second"]
    else:
        wanted = [panel, *sorted(n for n in metrics if n.startswith(panel + "/"))]
    return [
        n
        for n in wanted
        if n in metrics
        and (np.isfinite(metrics[n].values) & (metrics[n].values >= lowest)).any()
    ]


def _curve(
    axes: Axes, series: Series, color: str, label: str, smoothed: bool = True
) -> None:
    """The raw values, faint, with their moving average over them."""
    values = np.where(np.isfinite(series.values), series.values, np.nan)
    many = len(values) > 20
    marker = {"marker": "o", "markersize": 3} if len(values) < 3 else {}
    if smoothed and many:
        axes.plot(series.steps, values, color=color, alpha=0.22, linewidth=0.8)
        values = smooth(values, width=max(5, len(values) // 40))
    axes.plot(series.steps, values, color=color, linewidth=1.6, label=label, **marker)


def _robust_limits(series: Sequence[Series]) -> tuple[float, float]:
    """From 0 to above every curve but for its wildest hundredth of values."""
    top = 0.0
    for one in series:
        values = one.values[np.isfinite(one.values)]
        top = max(top, min(values.max(), 1.5 * np.quantile(values, 0.99)))
    return 0.0, 1.05 * top or 1.0


def _module_color(name: str, index: int) -> str:
    return MODULE_COLORS.get(name.partition("/")[2], COLORS[index % len(COLORS)])


def _dress(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, fontsize=12, fontweight="bold", loc="left")
    axes.set_xlabel("step")
    axes.set_ylabel(unit)
    axes.grid(color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=9, loc="best")


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=120)
    return path
