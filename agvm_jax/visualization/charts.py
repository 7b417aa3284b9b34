"""What charts of a run and of an evaluation share: colours, axes, margins, saving."""

import os

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

# Okabe and Ito's colours, which colour-blind readers tell apart; yellow is left out
# because it vanishes on white, and violet and black stand in for it.
COLORS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#6B5B95",
    "#222222",
)  # fmt: skip
BLACK = COLORS[-1]
GREY = "#888888"
DPI = 120


def new_figure(
    width: float, height: float, *, left: float = 0.95, gap: float = 0.4
) -> Figure:
    """Return a figure with fixed margins, in inches.

    Fixed, because matplotlib's own layouts draw everything once more to measure it,
    which takes as long as the drawing. Labels of unknown length need such a layout.

    Args:
      width, height: of the figure.
      left: room for labels and numbers of the y axis.
      gap: between axes beside each other.
    """
    figure = Figure(figsize=(width, height), dpi=DPI)
    figure.subplots_adjust(
        left=left / width,
        right=1 - 0.2 / width,
        bottom=0.6 / height,
        top=1 - 0.45 / height,
        wspace=2 * gap / max(width - left - 0.2 - gap, 1.0),
    )
    return figure


def dress(axes: Axes, title: str) -> None:
    """Title on the left, no frame above and on the right."""
    axes.set_title(title, fontsize=12, fontweight="bold", loc="left")
    axes.spines[["top", "right"]].set_visible(False)


def add_grid(axes: Axes) -> None:
    """Light lines, behind what is drawn."""
    axes.grid(color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)


def save(figure: Figure, path: str | os.PathLike[str]) -> np.ndarray:
    """Write a figure as PNG and return its pixels, (H, W, 3) uint8.

    `Figure.savefig` would draw it twice.
    """
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    Image.fromarray(pixels).save(path, "PNG")
    return pixels
