"""Write down what an evaluation of labels or of panoptic maps found.

Both reports hold:

* `results.json`: the numbers, of all and of each class;
* `table.txt`: the same to read;
* `best.png`, `worst.png`: images with the highest and lowest score, with what was
  found in them. Without the evaluator's `save_to` nothing was kept to be drawn.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from agvm_jax.evaluation.reports.figures import plot_confusion
from agvm_jax.evaluation.reports.images import best_and_worst
from agvm_jax.visualization.drawing import draw_labels, save_contact_sheet

LoadImage = Callable[[int], np.ndarray]


class _Judged(Protocol):
    """What both evaluators have of what is reported."""

    class_names: tuple[str, ...]
    num_images: int

    def compute(self) -> dict[str, float]: ...

    def per_class(self) -> Sequence[tuple]: ...

    def table(self) -> str: ...

    def image_scores(self) -> dict[int, float]: ...

    def found(self, image_id: int) -> np.ndarray | None: ...


class JudgedLabels(_Judged, Protocol):
    """See `SemanticEvaluator`, which has all of it."""

    counts: np.ndarray


class JudgedMaps(_Judged, Protocol):
    """See `PanopticEvaluator`, which has all of it."""

    def annotations(self) -> dict[str, Any]: ...


def write_semantic_report(
    evaluator: JudgedLabels,
    out_dir: str | os.PathLike[str],
    load_image: LoadImage | None = None,
    *,
    images: int = 16,
) -> list[Path]:
    """Write everything that is worth a look after an evaluation, and return the paths.

    Besides what both reports hold (see above) `confusion.png`: the share of each
    class's pixels that was given to each.

    Args:
      evaluator: a `SemanticEvaluator` after the last `add`.
      out_dir: made if it is not there; files of a former report are replaced.
      load_image: image id -> (H, W, 3) uint8 RGB, the original image. Without it no
        images are drawn.
      images: at most this many best and this many worst images, by pixel accuracy.
        An image is never in both.
    """
    out_dir = Path(out_dir)
    written = _write_numbers(evaluator, out_dir, ("IoU", "accuracy", "pixels"), {})
    # No pixel is truly of no class: those do not count.
    none = np.zeros((1, len(evaluator.class_names) + 1), np.int64)
    path = out_dir / "confusion.png"
    plot_confusion(
        np.concatenate([evaluator.counts, none]), evaluator.class_names, path
    )
    return [*written, path, *_draw(evaluator, out_dir, load_image, images)]


def write_panoptic_report(
    evaluator: JudgedMaps,
    out_dir: str | os.PathLike[str],
    load_image: LoadImage | None = None,
    *,
    images: int = 16,
) -> list[Path]:
    """Write everything that is worth a look after an evaluation, and return the paths.

    Besides what both reports hold (see above) `panoptic.json`: what belongs to the PNGs
    that the evaluator saved, for any other tool. With save_to=out_dir/"panoptic" they
    lie as in COCO.

    Args:
      evaluator: a `PanopticEvaluator` after the last `add`.
      out_dir, load_image, images: as in `write_semantic_report`; best and worst by
        the PQ of an image.
    """
    out_dir = Path(out_dir)
    more = {"panoptic.json": json.dumps(evaluator.annotations())}
    columns = ("PQ", "SQ", "RQ", "segments")
    written = _write_numbers(evaluator, out_dir, columns, more)
    return [*written, *_draw(evaluator, out_dir, load_image, images)]


def _write_numbers(
    evaluator: _Judged, out_dir: Path, columns: Sequence[str], more: Mapping[str, str]
) -> list[Path]:
    out_dir.mkdir(parents=True, exist_ok=True)
    results = {
        "numbers": evaluator.compute(),
        "classes": [
            {"name": name, **dict(zip(columns, values, strict=True))}
            for name, *values in evaluator.per_class()
        ],
        "images": evaluator.num_images,
    }
    texts = {
        "results.json": json.dumps(results, indent=1),
        "table.txt": evaluator.table() + "\n",
        **more,
    }
    for name, text in texts.items():
        (out_dir / name).write_text(text, encoding="utf-8")
    return [out_dir / name for name in texts]


def _draw(
    evaluator: _Judged, out_dir: Path, load_image: LoadImage | None, images: int
) -> list[Path]:
    if load_image is None:
        return []
    written = []
    scores = evaluator.image_scores()
    ranking = sorted(scores, key=lambda i: (-scores[i], i))
    for name, ids in best_and_worst(ranking, images).items():
        labels = {i: evaluator.found(i) for i in ids}
        sheet = {
            f"{i}: {100 * scores[i]:.1f}": draw_labels(
                load_image(i), found, evaluator.class_names
            )
            for i, found in labels.items()
            if found is not None
        }
        if sheet:
            path = out_dir / f"{name}.png"
            save_contact_sheet([*sheet.values()], path, [*sheet])
            written.append(path)
    return written
