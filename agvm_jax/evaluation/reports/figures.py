"""Figures of an evaluation: confusion matrix, precision and recall, mistakes."""

import os
from collections.abc import Sequence

import hotcoco
import numpy as np
from matplotlib.figure import Figure

from agvm_jax.evaluation.metrics.diagnosis import KINDS, Diagnosis
from agvm_jax.visualization.charts import (
    BLACK,
    COLORS,
    GREY,
    add_grid,
    dress,
    new_figure,
    save,
)

NUMBERED = 16  # classes up to which cells show their numbers


def plot_confusion(
    confusion: np.ndarray, class_names: Sequence[str], path: str | os.PathLike[str]
) -> None:
    """Draw a confusion matrix; shade and number are the share of the row.

    Args:
      confusion: (K + 1, K + 1) counts, row the true class, column the detected one,
        last row and column "none".
      class_names: K names.
      path: where the PNG goes.
    """
    names = [*class_names, "none"]
    count = len(names)
    totals = confusion.sum(axis=1, keepdims=True)
    shares = confusion / np.maximum(totals, 1)
    side = 2.6 + (0.62 * count if count <= NUMBERED + 1 else 0.17 * count)
    side = min(max(side, 5.0), 24.0)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = 9 if count <= NUMBERED + 1 else 6
    axes.set_xticks(range(count), names, rotation=90 if count > 6 else 0, fontsize=size)
    rows = [f"{n} ({t})" for n, t in zip(names, totals[:, 0].tolist(), strict=True)]
    axes.set_yticks(range(count), rows, fontsize=size)
    if count <= NUMBERED + 1:
        for row, column in zip(*np.nonzero(confusion), strict=True):
            share = shares[row, column]
            axes.text(
                column, row, f"{100 * share:.0f}", ha="center", va="center",
                fontsize=9, color="white" if share > 0.6 else BLACK,
            )  # fmt: skip
    axes.axhline(count - 1.5, color=GREY, linewidth=0.8)  # without a partner
    axes.axvline(count - 1.5, color=GREY, linewidth=0.8)
    axes.set_xlabel("detected as (none: not found)")
    axes.set_ylabel("true class, with its count (none: false alarms)")
    axes.set_title(
        "Confusion, percent of the row", fontsize=12, fontweight="bold", loc="left"
    )
    if count > NUMBERED + 1:
        percent = {"format": lambda value, _: f"{100 * value:.0f} %"}
        figure.colorbar(image, ax=axes, fraction=0.02, pad=0.01, **percent)
    save(figure, path)


def plot_precision_recall(
    result: hotcoco.COCOeval,
    class_names: Sequence[str],
    columns: Sequence[int],
    path: str | os.PathLike[str],
) -> None:
    """Draw precision over recall: by overlap on the left, by class on the right.

    The curves are those whose mean AP is: interpolated at 101 recalls, all sizes.

    Args:
      result: of an evaluator.
      class_names: K names.
      columns: (K,) where each class stands in the arrays of `result`.
      path: where the PNG goes.
    """
    precision = result.eval["precision"][:, :, :, 0, -1]  # (T, R, K)
    precision = np.where(precision < 0, np.nan, precision)
    recall = np.asarray(result.params.rec_thrs)
    defined = np.isfinite(precision[0]).all(axis=0)  # (K,)
    figure = new_figure(11, 4.6, left=0.8)
    left, right = figure.subplots(1, 2, sharey=True)
    thresholds = np.asarray(result.params.iou_thrs)
    for color, overlap in zip(COLORS, (0.5, 0.75, 0.9), strict=False):
        if defined.any():
            t = int(np.argmin(np.abs(thresholds - overlap)))
            curve = precision[t][:, defined].mean(axis=1)
            label = f"overlap {overlap:g}: AP {100 * curve.mean():.1f}"
            left.plot(recall, curve, color=color, linewidth=2, label=label)
    dress(left, "Mean over classes")
    left.set_ylabel("precision")

    at50 = precision[int(np.argmin(np.abs(thresholds - 0.5)))]
    named = int(defined.sum()) <= len(COLORS)
    shown = 0
    for name, column in zip(class_names, columns, strict=True):
        if defined[column]:
            curve = at50[:, column]
            style = {"color": COLORS[0], "alpha": 0.25, "linewidth": 0.8}
            if named:
                label = f"{name}: {100 * curve.mean():.1f}"
                style = {"color": COLORS[shown], "linewidth": 1.8, "label": label}
            right.plot(recall, curve, **style)
            shown += 1
    dress(right, "Each class, overlap 0.5")
    for axes in (left, right):
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("recall")
        add_grid(axes)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(framealpha=0.85, edgecolor="none", fontsize=9, loc="lower left")
    save(figure, path)


def plot_mistakes(diagnosis: Diagnosis, path: str | os.PathLike[str]) -> None:
    """Draw the kinds of mistakes: what mending each would gain, and how many."""
    figure = new_figure(8.4, 3.6, left=1.2)
    left, right = figure.subplots(1, 2, sharey=True)
    gains = [100 * diagnosis.gains[kind] for kind in KINDS]
    counts = [diagnosis.counts[kind] for kind in KINDS]
    for axes, values, form in ((left, gains, "{:.1f}"), (right, counts, "{:d}")):
        bars = axes.barh(KINDS, values, color=COLORS[0], height=0.65)
        axes.bar_label(bars, [form.format(v) for v in values], padding=3, fontsize=9)
        axes.set_xlim(0, 1.15 * max(max(values), 1))
        axes.tick_params(axis="y", length=0)
    left.invert_yaxis()
    dress(left, "AP50 to gain by mending it, points")
    dress(right, f"Count at score {diagnosis.score_threshold:g}")
    save(figure, path)
