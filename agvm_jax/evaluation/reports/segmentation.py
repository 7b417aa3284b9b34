"""Write down what an evaluation of labels or of panoptic maps found."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from agvm_jax.evaluation.panoptic import PanopticEvaluator
from agvm_jax.evaluation.reports.figures import plot_confusion
from agvm_jax.evaluation.reports.pictures import best_and_worst
from agvm_jax.evaluation.semantic import SemanticEvaluator
from agvm_jax.visualization.drawing import draw_labels, save_contact_sheet


def write_segmentation_report(
    evaluator: SemanticEvaluator | PanopticEvaluator,
    out_dir: str | os.PathLike[str],
    load_image: Callable[[int], np.ndarray] | None = None,
    *,
    pictures: int = 16,
) -> list[Path]:
    """Write everything that is worth a look after an evaluation, and return the paths.

    * `results.json`: the numbers, of all and of each class;
    * `table.txt`: the same to read;
    * `confusion.png` of semantic labels: the share of each class's pixels that was
      given to each;
    * `panoptic.json` of panoptic maps: what belongs to the PNGs that the evaluator
      saved, for any other tool. With save_to=out_dir/"panoptic" they lie as in COCO;
    * `best.png`, `worst.png`: images with the highest and lowest pixel accuracy or PQ,
      with what was found in them.

    Args:
      evaluator: after the last `add`. Without `save_to` no pictures are drawn.
      out_dir: made if it is not there; files of a former report are replaced.
      load_image: image id -> (H, W, 3) uint8 RGB, the original picture. Without it no
        pictures are drawn.
      pictures: at most this many best and this many worst images. An image is never in
        both.
    """
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    panoptic = isinstance(evaluator, PanopticEvaluator)
    columns = (
        ("PQ", "SQ", "RQ", "segments") if panoptic else ("IoU", "accuracy", "pixels")
    )
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
    }
    if panoptic:
        texts["panoptic.json"] = json.dumps(evaluator.annotations())
    for name, text in texts.items():
        (out_dir / name).write_text(text, encoding="utf-8")
    written = [out_dir / name for name in texts]
    if not panoptic:
        # No pixel is truly of no class: those do not count.
        none = np.zeros((1, len(evaluator.class_names) + 1), np.int64)
        path = out_dir / "confusion.png"
        plot_confusion(
            np.concatenate([evaluator.counts, none]), evaluator.class_names, path
        )
        written.append(path)

    if load_image is None:
        return written
    scores = evaluator.image_scores()
    ranking = sorted(scores, key=lambda i: (-scores[i], i))
    for name, ids in best_and_worst(ranking, pictures).items():
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
