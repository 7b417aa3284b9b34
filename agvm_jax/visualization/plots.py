"""Curves of a training run, drawn from its metrics.jsonl."""

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from agvm_jax.visualization.charts import (
    BLACK,
    COLORS,
    GREY,
    add_grid,
    dress,
    new_figure,
    save,
)

# A module has the same colour in every figure.
MODULE_COLORS = {
    "backbone": BLACK,
    "fpn": COLORS[0],
    "rpn": COLORS[2],
    "head": COLORS[1],
    "box_head": COLORS[1],
    "mask_head": COLORS[3],
    "semantic_head": COLORS[5],
    "all": GREY,
}
SHORT = 60  # entries up to which a curve is drawn as it is, without smoothing


class Series(NamedTuple):
    """One metric over the run: (N,) steps, rising, and (N,) values, NaN for gaps."""

    steps: np.ndarray
    values: np.ndarray


@dataclasses.dataclass(frozen=True)
class Panel:
    """What one figure shows.

    Attributes:
      title, unit: above the figure and beside its y axis.
      names: metrics that it shows, in this order.
      prefix: also every metric of this kind, `prefix/<label>`, in the alphabet's order.
      factor: by which values are multiplied.
      lowest: values below it are gaps (-1 stands for "nothing to find").
      smoothed: the raw values are drawn faint, under their moving average.
      points: each entry is marked.
      log: logarithmic y axis; values that are not positive are gaps.
      reference: a dashed line at this value, or None.
    """

    title: str
    unit: str
    names: Sequence[str] = ()
    prefix: str | None = None
    factor: float = 1.0
    lowest: float = -math.inf
    smoothed: bool = True
    points: bool = False
    log: bool = False
    reference: float | None = None

    def labels(self, metrics: Mapping[str, Series]) -> dict[str, Series]:
        """Return label -> series for the metrics that have a value to show."""
        wanted = list(self.names)
        if self.prefix is not None:
            start = self.prefix + "/"
            wanted += sorted(name for name in metrics if name.startswith(start))
        found = {}
        for name in wanted:
            if name in metrics:
                steps, values = metrics[name]
                bound = max(self.lowest, 1e-30) if self.log else self.lowest
                good = (values >= bound) & (np.abs(values) < 1e38)  # not NaN either
                if good.any():
                    label = name.partition("/")[2] or name
                    shown = np.where(good, values, np.nan) * self.factor
                    found[label] = Series(steps, shown)
        return found


PANELS = {
    "loss": Panel("Training loss", "loss", ("loss",), "loss"),
    "lr": Panel("Learning rate", "learning rate", ("lr",), smoothed=False),
    "phi": Panel("Relative gradient variance", "phi = 1 − cosine", prefix="phi"),
    # mu is a moving average already.
    "mu": Panel(
        "Modulation of the learning rate", "mu, factor on the rate", prefix="mu",
        smoothed=False, reference=1.0,
    ),
    # Its names are the task's: see `plot_run`.
    "validation": Panel(
        "Validation", "percent", factor=100.0, lowest=0.0, smoothed=False, points=True
    ),
    "noise_scale": Panel(
        "Gradient noise scale", "images", prefix="noise_scale", log=True
    ),
    "grad_norm": Panel(
        "Gradient norm", "norm", ("grad_norm",), "grad_norm", log=True
    ),
    "speed": Panel("Training speed", "images per second", ("images_per_second",)),
}  # fmt: skip


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
    metrics_path: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    validation: Sequence[str],
) -> list[Path]:
    """Draw a run's curves as PNG files and return their paths.

    One file a panel of `PANELS`, named as it is; a panel without a value to show is not
    drawn. `overview.png` holds all of them side by side.

    Args:
      metrics_path: the run's metrics.jsonl.
      out_dir: where the files go; made if it is not there.
      validation: numbers of an evaluation, fractions, to be shown together.
    """
    metrics = read_metrics(metrics_path)
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    evaluated = tuple(f"eval/{name}" for name in validation)
    panels = PANELS | {
        "validation": dataclasses.replace(PANELS["validation"], names=evaluated)
    }
    panels = {n: panel for n, panel in panels.items() if panel.labels(metrics)}
    last = max((series.steps[-1] for series in metrics.values()), default=0)
    paths = [out_dir / f"{name}.png" for name in panels]
    drawn = []
    for panel, path in zip(panels.values(), paths, strict=True):
        figure = new_figure(6.4, 4.2)
        draw_panel(figure.add_subplot(), panel, metrics, last)
        drawn.append(save(figure, path))
    if len(drawn) > 1:
        paths.append(out_dir / "overview.png")
        Image.fromarray(_side_by_side(drawn)).save(paths[-1], "PNG")
    return paths


def _side_by_side(images: Sequence[np.ndarray]) -> np.ndarray:
    """Images of one size in rows of two to four, on white."""
    count = len(images)
    columns = 2 if count < 5 else 3 if count < 7 else 4
    blank = np.full_like(images[0], 255)
    filled = [*images, *[blank] * (-count % columns)]
    rows = [filled[k : k + columns] for k in range(0, count, columns)]
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


def draw_panel(
    axes: Axes, panel: Panel, metrics: Mapping[str, Series], last_step: float
) -> None:
    """Draw one panel; the x axis goes from 0 to `last_step` in all of them."""
    dress(axes, panel.title)
    add_grid(axes)
    axes.set_xlabel("step")
    axes.set_ylabel(panel.unit)
    if panel.log:
        axes.set_yscale("log")
    if panel.reference is not None:
        axes.axhline(panel.reference, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    shown = panel.labels(metrics)
    for k, (label, series) in enumerate(shown.items()):
        total = label in panel.names and panel.prefix is not None
        color = MODULE_COLORS.get(label, COLORS[k % len(COLORS)])
        if total:
            color = MODULE_COLORS["all" if "backbone" in shown else "backbone"]
        _curve(axes, panel, series, color, "total" if total else label)
    axes.set_xlim(0, max(last_step, 1) * 1.02)
    _set_height(axes, panel, list(shown.values()))
    if len(shown) > 1 or panel.points:
        axes.legend(frameon=False, fontsize=9, loc="best")


def _curve(axes: Axes, panel: Panel, series: Series, color: str, label: str) -> None:
    steps, values = series
    style = {"color": color, "linewidth": 1.7, "label": label}
    if panel.points or np.isfinite(values).sum() < 3:
        style |= {"marker": "o", "markersize": 4, "clip_on": False}
    if panel.smoothed and len(values) > SHORT:
        axes.plot(steps, values, color=color, alpha=0.22, linewidth=0.8)
        values = smooth(values, width=max(5, len(values) // 40))
    axes.plot(steps, values, **style)


def _set_height(axes: Axes, panel: Panel, series: Sequence[Series]) -> None:
    """From 0 to above the curves, but for their wildest hundredth of values."""
    if panel.log:
        return
    if panel.reference is not None:
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, 0.9 * panel.reference), max(high, 1.1 * panel.reference))
        return
    top = 0.0
    for one in series:
        values = one.values[np.isfinite(one.values)]
        top = max(top, min(values.max(), 1.5 * np.quantile(values, 0.99)))
    if panel.factor == 100.0:
        axes.set_ylim(0, min(100.0, max(10.0, 1.25 * top)))
    else:
        axes.set_ylim(0, 1.05 * top if top > 1e-30 else 1.0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
