"""Draws docs/images/architecture.png: python docs/architecture.py

Who hands what to whom, on the way from a folder of images to new parameters.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

FILE = Path(__file__).parent / "images" / "architecture.png"
INK, GROUND = "#1f2933", "white"
# Name, what stands in it; left, bottom, width, height; colour.
BOXES = {
    "scripts": (
        "train.py  predict.py  evaluate.py  export.py",
        "experiment.py assembles: the files that know both wings",
        (0.3, 6.05, 11.4, 0.85),
        "#e4e7eb",
    ),
    "data": (
        "agvm_jax/data",
        "formats  storage\naugment  tools\npipeline",
        (0.3, 3.85, 2.7, 1.45),
        "#d5e8f5",
    ),
    "models": (
        "models",
        "backbones  fpn\nheads  detectors\nops  cpu  weights",
        (3.7, 3.85, 2.7, 1.45),
        "#fbe3c8",
    ),
    "training": (
        "agvm_jax/training",
        "resolve  recipes\nstep  loop\ncheckpoint",
        (0.3, 1.1, 6.1, 1.45),
        "#e2dcef",
    ),
    "evaluation": (
        "agvm_jax/evaluation",
        "tasks  evaluators\nmetrics  reports",
        (7.6, 3.85, 4.1, 1.45),
        "#d9efdc",
    ),
    "optim": (
        "agvm_jax/optim",
        "agvm()  chain()  modulate()\nphi by norms or halves\njax and optax alone",
        (7.6, 1.1, 4.1, 1.45),
        "#f9d5d3",
    ),
}
# From, to, label, place of the label.
ARROWS = (
    ((3.0, 4.45), (3.7, 4.45), "Batch", (3.35, 4.68)),
    ((6.4, 4.45), (7.6, 4.45), "Predictions", (7.0, 4.68)),
    ((1.65, 3.85), (1.65, 2.55), "Batch", (1.72, 3.2)),
    ((5.05, 3.85), (5.05, 2.55), "each replica's\ngradients", (5.12, 3.2)),
    ((6.4, 2.0), (7.6, 2.0), "gradients", (7.0, 2.2)),
    ((7.6, 1.55), (6.4, 1.55), "phi, updates", (7.0, 1.33)),
    ((1.65, 6.05), (1.65, 5.3), "", (0, 0)),
    ((5.05, 6.05), (5.05, 5.3), "", (0, 0)),
    ((9.65, 6.05), (9.65, 5.3), "", (0, 0)),
)


def draw(axes) -> None:
    for title, body, (left, bottom, width, height), color in BOXES.values():
        axes.add_patch(
            FancyBboxPatch(
                (left, bottom),
                width,
                height,
                boxstyle="round,pad=0,rounding_size=0.12",
                facecolor=color,
                edgecolor=INK,
                linewidth=1.0,
            )
        )
        middle = left + width / 2
        top = bottom + height - 0.22
        axes.text(middle, top, title, ha="center", va="top", weight="bold", size=10.5)
        axes.text(middle, top - 0.36, body, ha="center", va="top", size=9.5)
    for start, end, label, place in ARROWS:
        style = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.2}
        axes.annotate("", end, start, arrowprops=style)
        upright = start[0] == end[0]
        axes.text(
            *place, label, ha="left" if upright else "center", va="center", size=9
        )


def main() -> None:
    figure, axes = plt.subplots(figsize=(9.6, 5.2), facecolor=GROUND)
    axes.set(xlim=(0, 12), ylim=(0.85, 7.1))
    axes.axis("off")
    draw(axes)
    figure.subplots_adjust(0, 0, 1, 1)
    figure.savefig(FILE, dpi=140)
    print(FILE)


if __name__ == "__main__":
    main()
