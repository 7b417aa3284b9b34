"""Images a second of our training step, beside torchvision's.

    python -m benchmarks.train_step                        # ours alone
    python -m benchmarks.train_step --peer-python PATH     # and torchvision's
    python -m benchmarks.train_step --detector faster_rcnn --peer-python PATH

Network, image size, batch, classes and optimizer (SGD with momentum and weight decay)
are the same on both sides, BatchNorm is trained, and RetinaNet's P6 is made from P5 as
torchvision has it. The two take turns, a few steps each; the figure to trust is the
ratio, which is taken turn by turn. `--peer-python` names an interpreter that can import
torchvision; without it this one is tried. `--trace DIR` writes a profile of one of our
steps. Environment variables reach both sides: OMP_NUM_THREADS, MALLOC_ARENA_MAX, ...
"""

import argparse
import subprocess
import sys

import jax
import numpy as np
import optax

from agvm_jax.structures import Batch
from agvm_jax.training.host_memory import keep_freed_memory
from benchmarks.turns import Worker, serve, summary
from configs import base
from models.build import build_detector

NUM_CLASSES = 91
BOXES = 8  # objects an image
MAX_BOXES = 100  # rows an image, the rest is padding
MASK_SIZE = 56  # of each object's mask, for Mask R-CNN


def make_program(args):
    """Return a training step, not compiled, and its three arguments.

    The first of them may be donated: parameters, model state and optimizer state, which
    the step returns with the loss.
    """
    config = base.get_config().model
    config.update(
        detector=args.detector,
        backbone=args.backbone,
        norm=args.norm,
        dtype=args.dtype,
        p6_from="p5",
    )
    config.anchors.scales = 3 if args.detector == "retinanet" else 1
    size = (args.image_size, args.image_size)
    detector = build_detector(config, num_classes=NUM_CLASSES, image_size=size)
    optimizer = optax.chain(
        optax.add_decayed_weights(1e-4), optax.sgd(1e-3, momentum=0.9)
    )
    params, model_state = detector.init(jax.random.key(0))
    carry = params, model_state, optimizer.init(params)
    batch = jax.device_put(make_batch(args.batch_size, args.image_size))

    def train_step(carry, batch, key):
        params, model_state, opt_state = carry
        gradient = jax.value_and_grad(detector.loss, has_aux=True)
        (loss, (model_state, _)), grads = gradient(params, model_state, batch, key)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), model_state, opt_state), loss

    return train_step, carry, batch, jax.random.key(1)


def make_step(args):
    """Return a function that takes one training step and waits for it."""
    train_step, carry, batch, key = make_program(args)
    compiled = jax.jit(train_step, donate_argnums=0).lower(carry, batch, key).compile()

    def step():
        nonlocal carry
        carry, loss = compiled(carry, batch, key)
        jax.block_until_ready((carry, loss))

    return step


def make_batch(batch_size: int, side: int) -> Batch:
    """Return noise with `BOXES` random objects an image."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, side / 2, (batch_size, MAX_BOXES, 2))
    extent = rng.uniform(side / 16, side / 2, (batch_size, MAX_BOXES, 2))
    valid = np.broadcast_to(np.arange(MAX_BOXES) < BOXES, (batch_size, MAX_BOXES))
    return Batch(
        image=rng.integers(0, 255, (batch_size, side, side, 3), np.uint8),
        image_size=np.full((batch_size, 2), side, np.int32),
        image_id=np.arange(batch_size, dtype=np.int32),
        boxes=np.concatenate([corner, corner + extent], -1).astype(np.float32),
        classes=rng.integers(0, NUM_CLASSES, (batch_size, MAX_BOXES)).astype(np.int32),
        valid=valid,
        crowd=np.zeros_like(valid),
        masks=rng.integers(
            0, 2, (batch_size, MAX_BOXES, MASK_SIZE, MASK_SIZE), np.uint8
        ),
    )


def can_import_torchvision(python: str) -> bool:
    command = [python, "-c", "import torchvision"]
    return subprocess.run(command, capture_output=True).returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--detector", default="retinanet", help="or faster_rcnn, mask_rcnn"
    )
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--norm", default="local", help="frozen | local")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="steps a turn")
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--trace", default="")
    parser.add_argument(
        "--default-memory",
        action="store_true",
        help="without `keep_freed_memory`, which train.py calls",
    )
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.default_memory:
        keep_freed_memory()
    if args.worker:
        serve(make_step(args), args.steps)
        return
    if args.trace:
        step = make_step(args)
        step()
        with jax.profiler.trace(args.trace, create_perfetto_trace=True):
            step()
        return

    options = [f"--{name}={getattr(args, name.replace('-', '_'))}" for name in SHARED]
    command = [sys.executable, "-m", "benchmarks.train_step", "--worker", *options]
    ours = Worker(command + ["--default-memory"] * args.default_memory)
    peer = None
    if can_import_torchvision(args.peer_python):
        command = [args.peer_python, "-m", "benchmarks.torchvision_step", *options]
        peer = Worker(command)
    else:
        print(f"{args.peer_python} cannot import torchvision: ours alone")
    turns = []
    for _ in range(args.turns):
        turns.append((ours.run(), peer.run() if peer else None))
    images = args.batch_size
    print("ours       ", summary([images / mine.clock for mine, _ in turns], UNIT))
    if peer:
        rates = [images / theirs.clock for _, theirs in turns]
        ratios = [theirs.clock / mine.clock for mine, theirs in turns]
        work = [theirs.processor / mine.processor for mine, theirs in turns]
        print("torchvision", summary(rates, UNIT))
        print("ratio      ", summary(ratios))
        print("by processor time", summary(work))


UNIT = " images/s"
SHARED = (
    "detector",
    "backbone",
    "norm",
    "image-size",
    "batch-size",
    "steps",
    "dtype",
)

if __name__ == "__main__":
    main()
