"""Host time of a COCO evaluation, beside pycocotools on the same detections.

    python -m benchmarks.evaluation
    python -m benchmarks.evaluation --images 500 --detections 100

Random ground truth of COCO's density (7.4 boxes an image, 80 classes) and detections
around it. Timed is what the host does between the device's last answer and the twelve
numbers: `add` for every batch, `compute`, and the table by class. The goal is under two
seconds for 5,000 images with 100 detections each. The twelve numbers of both are
compared and must be equal to the last bit. pycocotools takes a minute or two at full
size; `--no-peer` leaves it out.
"""

import argparse
import contextlib
import io
import resource
import sys
import time
from collections.abc import Iterator

import numpy as np

from agvm_jax.evaluation.detection import DetectionEvaluator
from agvm_jax.structures import Batch, Predictions

CLASSES = 80
BOXES = 7.4  # boxes an image of COCO val2017
HEIGHT, WIDTH = 480, 640


def make_truth(rng: np.random.Generator, images: int) -> dict:
    """A COCO dictionary with `images` images; one box in a hundred is a crowd."""
    annotations = []
    for image_id in range(1, images + 1):
        for _ in range(rng.poisson(BOXES)):
            side = np.exp(rng.uniform(np.log(8), np.log(300), 2))
            corner = rng.uniform(0, np.maximum([WIDTH, HEIGHT] - side, 1))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(rng.integers(1, CLASSES + 1)),
                    "bbox": [*corner.tolist(), *side.tolist()],
                    "area": float(side.prod()),
                    "iscrowd": int(rng.random() < 0.01),
                }
            )
    return {
        "info": {},
        "images": [
            {"id": i, "height": HEIGHT, "width": WIDTH} for i in range(1, images + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": c, "name": f"class {c}"} for c in range(1, CLASSES + 1)],
    }


def make_batches(
    rng: np.random.Generator, truth: dict, detections: int, batch_size: int
) -> Iterator[tuple[Batch, Predictions]]:
    """Detections near the ground truth first, random ones in the remaining slots."""
    by_image: dict[int, list[dict]] = {}
    for annotation in truth["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    ids = [image["id"] for image in truth["images"]]
    for start in range(0, len(ids), batch_size):
        shape = (batch_size, detections)
        corner = rng.uniform(0, [WIDTH - 20, HEIGHT - 20], (*shape, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(10, 200, (*shape, 2))], -1)
        classes = rng.integers(0, CLASSES, shape)
        image_id = np.full(batch_size, -1)
        for row, one in enumerate(ids[start : start + batch_size]):
            image_id[row] = one
            for slot, annotation in enumerate(by_image.get(one, [])[:detections]):
                x, y, w, h = annotation["bbox"]
                boxes[row, slot] = [x, y, x + w, y + h] + rng.normal(0, 3, 4)
                classes[row, slot] = annotation["category_id"] - 1
        yield (
            Batch(
                None, np.full((batch_size, 2), (HEIGHT, WIDTH)), image_id, *[None] * 4
            ),
            Predictions(
                boxes.astype(np.float32),
                np.sort(rng.random(shape, np.float32), axis=1)[:, ::-1],
                classes.astype(np.int32),
                np.ones(shape, bool),
            ),
        )


def time_ours(
    truth: dict, batches: list[tuple[Batch, Predictions]]
) -> tuple[DetectionEvaluator, dict[str, float]]:
    """Return the finished evaluator and the seconds of each stage."""
    names = [category["name"] for category in truth["categories"]]
    marks = [time.perf_counter()]
    evaluator = DetectionEvaluator(truth, range(1, CLASSES + 1), names)
    marks.append(time.perf_counter())
    for batch, predictions in batches:
        evaluator.add(batch, predictions)
    marks.append(time.perf_counter())
    evaluator.compute()
    marks.append(time.perf_counter())
    evaluator.table()
    marks.append(time.perf_counter())
    stages = ("index ground truth (once a run)", "add", "compute", "table")
    return evaluator, dict(zip(stages, np.diff(marks).tolist(), strict=True))


def time_pycocotools(
    truth: dict, detections: list[dict]
) -> tuple[np.ndarray, dict[str, float]]:
    """Return pycocotools' twelve numbers and the seconds of each stage."""
    from pycocotools.coco import COCO  # optional: the extra named "test"
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        marks = [time.perf_counter()]
        index = COCO()
        index.dataset = truth
        index.createIndex()
        marks.append(time.perf_counter())
        result = COCOeval(index, index.loadRes(detections), "bbox")
        marks.append(time.perf_counter())
        result.evaluate()
        result.accumulate()
        result.summarize()
        marks.append(time.perf_counter())
    stages = ("index ground truth (once a run)", "load detections", "evaluate")
    return result.stats, dict(zip(stages, np.diff(marks).tolist(), strict=True))


def report(name: str, stages: dict[str, float]) -> float:
    """Print the stages and return the seconds that every evaluation costs."""
    print(f"\n{name}")
    for stage, seconds in stages.items():
        print(f"  {stage:<34}{seconds:9.3f} s")
    total = sum(seconds for stage, seconds in stages.items() if "once" not in stage)
    print(f"  {'each evaluation':<34}{total:9.3f} s")
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100, help="an image")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--no-peer", action="store_true", help="without pycocotools")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    truth = make_truth(rng, options.images)
    batches = list(make_batches(rng, truth, options.detections, options.batch_size))
    print(
        f"{options.images} images, {len(truth['annotations'])} boxes, "
        f"{options.images * options.detections} detections, {CLASSES} classes"
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    evaluator, stages = time_ours(truth, batches)
    ours = report("agvm_jax", stages)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    print(
        f"  {'peak memory above the inputs':<34}{(after - before) * unit / 1e6:9.0f} MB"
    )
    if options.no_peer:
        return 0
    numbers, stages = time_pycocotools(truth, evaluator.detections())
    theirs = report("pycocotools", stages)
    same = np.array_equal(numbers, list(evaluator.compute().values()))
    print(f"\nspeed-up {theirs / ours:.0f}, numbers {'equal' if same else 'DIFFER'}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
