"""RoIAlign, NMS and matching beside torchvision's, on the CPU.

    python -m benchmarks.detector_ops --peer-python PATH   # one with torchvision

What Faster R-CNN asks of them at 256 px with a batch of 4: 512 boxes an image pooled
from four levels of 256 channels, forward and backward; 5,008 candidates of five levels
for at most 2,000 proposals; 16,368 anchors matched with 8 objects. Both sides take
turns; the figure to trust is the ratio.
"""

import argparse
import sys

import jax
import jax.numpy as jnp

from benchmarks.operands import ANCHORS, LEVELS, STRIDES, make_operands
from benchmarks.train_step import can_import_torchvision
from benchmarks.turns import Worker, serve, summary
from models.ops.matching import match
from models.ops.nms import nms
from models.ops.roi_align import roi_align

OPS = ("roi_align", "nms", "match")
STEPS = {"roi_align": 2, "nms": 5, "match": 20}  # in a turn


def make_step(op: str):
    """Return a function that does the work of one op for a batch, and waits for it."""
    operands = {k: jax.device_put(v) for k, v in make_operands(op).items()}

    def pool(boxes, weight, **features):
        levels = [features[f"level{index}"] for index in range(LEVELS)]

        def loss(levels):
            pooled = roi_align(levels, boxes, strides=STRIDES, output_size=7)
            return (pooled * weight).sum()

        return jax.value_and_grad(loss)(levels)

    def suppress(boxes, scores, levels):
        def one(boxes, scores):
            valid = jnp.ones(scores.shape, bool)
            return nms(
                boxes, scores, levels, valid, iou_threshold=0.7, max_outputs=2000
            )

        return jax.vmap(one)(boxes, scores)

    def assign(anchors, boxes):
        def one(boxes):
            return match(
                anchors,
                boxes,
                jnp.ones(boxes.shape[0], bool),
                foreground_iou=0.7,
                background_iou=0.3,
                low_quality=True,
            )

        return jax.vmap(one)(boxes)

    run = jax.jit({"roi_align": pool, "nms": suppress, "match": assign}[op])
    return lambda: jax.block_until_ready(run(**operands))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        serve(make_step(args.worker), STEPS[args.worker])
        return
    if not can_import_torchvision(args.peer_python):
        raise SystemExit(f"{args.peer_python} cannot import torchvision")
    assert sum(ANCHORS) == 16368
    for op in OPS:
        ours = Worker([sys.executable, "-m", "benchmarks.detector_ops", "--worker", op])
        peer = Worker(
            [args.peer_python, "-m", "benchmarks.torchvision_ops", op, str(STEPS[op])]
        )
        turns = [(ours.run(), peer.run()) for _ in range(args.turns)]
        ours.close()
        peer.close()
        print(op)
        print("  ours       ", summary([1e3 * a.clock for a, _ in turns], " ms"))
        print("  torchvision", summary([1e3 * b.clock for _, b in turns], " ms"))
        print("  ratio      ", summary([b.clock / a.clock for a, b in turns]))


if __name__ == "__main__":
    main()
