"""Write down what an evaluation found: numbers, tables, figures, drawn images."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from agvm_jax.evaluation.metrics.diagnosis import Detections, Diagnosis, diagnose
from agvm_jax.evaluation.reports.figures import (
    plot_confusion,
    plot_mistakes,
    plot_precision_recall,
)
from agvm_jax.evaluation.reports.images import best_and_worst
from agvm_jax.visualization.drawing import draw_detections, save_contact_sheet


class Judged(Detections, Protocol):
    """What is reported: see `DetectionEvaluator`, which has all of it."""

    class_names: tuple[str, ...]
    columns: np.ndarray
    num_images: int

    def compute(self) -> dict[str, float]: ...

    def per_class(self) -> list[tuple[str, float, float, int]]: ...

    def table(self) -> str: ...

    def regions(self, detections: np.ndarray) -> list[np.ndarray] | None: ...

    def detections(self) -> list[dict[str, Any]]: ...


def write_detection_report(
    evaluator: Judged,
    out_dir: str | os.PathLike[str],
    load_image: Callable[[int], np.ndarray] | None = None,
    *,
    score_threshold: float = 0.3,
    images: int = 16,
) -> list[Path]:
    """Write everything that is worth a look after an evaluation, and return the paths.

    * `results.json`: the twelve numbers, the classes, the mistakes;
    * `table.txt`: the same to read;
    * `detections.json`: COCO results format, for any other tool;
    * `precision_recall.png`, `confusion.png`, `mistakes.png`;
    * `best.png`, `worst.png`: images with the highest and lowest F1, drawn; the best
      and the worst come first. True boxes are dashed, crowd regions dotted.

    Args:
      evaluator: a `DetectionEvaluator` after the last `add`.
      out_dir: made if it is not there; files of a former report are replaced.
      load_image: image id -> (H, W, 3) uint8 RGB, the original image. Without it no
        images are drawn.
      score_threshold: from which a detection is counted among hits and mistakes, and
        drawn. AP knows no threshold.
      images: at most this many best and this many worst images. An image is never in
        both.
    """
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    diagnosis = diagnose(evaluator, score_threshold)
    table = f"{evaluator.table()}\n\n{diagnosis.table()}\n"
    results = {
        "numbers": evaluator.compute(),
        "classes": [
            {"name": name, "AP": ap, "AP50": ap50, "boxes": count}
            for name, ap, ap50, count in evaluator.per_class()
        ],
        "mistakes": {
            kind: {"count": count, "AP50_gain": diagnosis.gains[kind]}
            for kind, count in diagnosis.counts.items()
        },
        "score_threshold": score_threshold,
        "images": evaluator.num_images,
    }
    paths = {
        "results.json": json.dumps(results, indent=1),
        "table.txt": table,
        "detections.json": json.dumps(evaluator.detections()),
    }
    for name, text in paths.items():
        (out_dir / name).write_text(text, encoding="utf-8")
    written = [out_dir / name for name in paths]

    plot_precision_recall(
        evaluator.result(),
        evaluator.class_names,
        evaluator.columns,
        out_dir / "precision_recall.png",
    )
    plot_confusion(
        diagnosis.confusion, evaluator.class_names, out_dir / "confusion.png"
    )
    plot_mistakes(diagnosis, out_dir / "mistakes.png")
    written += [
        out_dir / f"{name}.png"
        for name in ("precision_recall", "confusion", "mistakes")
    ]

    if load_image is None:
        return written
    shown = best_and_worst(diagnosis.ranking().tolist(), images)
    for name, image_ids in shown.items():
        if image_ids:
            path = out_dir / f"{name}.png"
            _draw_images(evaluator, diagnosis, image_ids, load_image, path)
            written.append(path)
    return written


def _draw_images(
    evaluator: Judged,
    diagnosis: Diagnosis,
    image_ids: list[int],
    load_image: Callable[[int], np.ndarray],
    path: Path,
) -> None:
    truth = evaluator.ground_truth
    rows = evaluator.rows()
    class_of = {c: k for k, c in enumerate(evaluator.category_ids)}
    images, titles = [], []
    for image_id in image_ids:
        own = np.flatnonzero(rows[:, 0] == image_id)
        mine = rows[own]
        objects = truth.image_ids == image_id
        images.append(
            draw_detections(
                load_image(image_id),
                _corners(mine[:, 1:5]),
                np.array([class_of[c] for c in mine[:, 6].tolist()], np.int64),
                mine[:, 5],
                evaluator.class_names,
                _corners(truth.boxes[objects & ~truth.crowd]),
                crowds=_corners(truth.boxes[objects & truth.crowd]),
                regions=evaluator.regions(own),
                score_threshold=diagnosis.score_threshold,
            )
        )
        at = int(np.searchsorted(diagnosis.image_ids, image_id))
        hits, wrong = diagnosis.hits[at], diagnosis.false_alarms[at]
        lost = diagnosis.missed[at]
        titles.append(f"{image_id}: {hits} hit, {wrong} wrong, {lost} missed")
    save_contact_sheet(images, path, titles)


def _corners(boxes: np.ndarray) -> np.ndarray:
    """x y w h to x1 y1 x2 y2."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
