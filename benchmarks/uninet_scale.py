"""UniNets of every size: what compiling a step takes, and one real step of the largest.

    python -m benchmarks.uninet_scale                          # compile B0, B6 and 1B
    python -m benchmarks.uninet_scale --sizes b0 --one-by-one  # blocks without a scan
    python -m benchmarks.uninet_scale --step 1b                # one real step

Compiled is the gradient of a loss on all four outputs of the backbone, of one image of
128 px, for this CPU. Seconds are processor time of the whole process, which other work
on the machine stretches less than time on a clock. No weight is allocated for it.

The step is that of configs/uninet_1b.py, Cascade Mask R-CNN with AGVM, with three
changes, so that it may fit a machine of 24 GB: parameters and gradients are
bfloat16 (the arithmetic is float32), the optimizer is SGD without momentum, and each
half of the batch is one generated image, of `--image-size` pixels. It holds more than 6
bytes a parameter; a trunk of fewer blocks is `--repeats`. Nobody has seen it end yet.
"""

import argparse
import math
import resource
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from agvm_jax import label_tree, modulate
from agvm_jax.optim.variance import products_of_halves, stats_from_halves
from benchmarks.train_step import NUM_CLASSES, make_batch
from configs import uninet_1b
from models.backbones.uninet import UniNet
from models.backbones.uninet_sizes import SIZES
from models.build import build_detector

SIDE = 128  # pixels of the image of what is compiled
RATE = 1e-3  # of the one step
GIGABYTE = 1e9


class Compiled(NamedTuple):
    """What compiling a backbone's gradient took."""

    size: str
    blocks: int
    parameters: int
    lowering: float  # processor seconds, tracing included
    compiling: float
    lines: int  # of StableHLO


def compile_backbone(size: str, stacked: bool) -> Compiled:
    """Compile a backbone's gradient."""

    def make() -> UniNet:
        return UniNet(size, norm="local", stacked=stacked, rngs=nnx.Rngs(0))

    graph, params, state = nnx.split(nnx.eval_shape(make), nnx.Param, nnx.BatchStat)

    def loss(params, state, images):
        model = nnx.merge(graph, params, state, copy=True)
        features = model(images, train=True)
        return sum(jnp.square(f).mean() for f in features.values())

    images = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
    started = time.process_time()
    lowered = jax.jit(jax.grad(loss)).lower(params, state, images)
    lowering = time.process_time() - started
    lines = len(lowered.as_text().splitlines())
    started = time.process_time()
    lowered.compile()
    compiling = time.process_time() - started
    return Compiled(
        size=size,
        blocks=sum(SIZES[size].repeats),
        parameters=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)),
        lowering=lowering,
        compiling=compiling,
        lines=lines,
    )


def table(rows: list[Compiled]) -> str:
    """Return rows as Markdown."""
    lines = [
        "| UniNet | parameters | blocks | lowered, s | compiled, s | lines |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.size} | {row.parameters / 1e6:.1f} M | {row.blocks} |"
        f" {row.lowering:.1f} | {row.compiling:.1f} | {row.lines:,} |"
        for row in rows
    ]
    return "\n".join(lines)


def make_config(size: str, side: int):
    """Return the section `model` of the step's config."""
    config = uninet_1b.get_config().model
    config.update(backbone=f"uninet_{size}", dtype="float32", norm="local")
    config.drop_path = 0.0
    # An image of so few pixels has no thousand proposals.
    config.rpn.pre_nms_top_k = config.rpn.post_nms_top_k = (200, 100)
    config.cascade_head.samples = 64
    return config


def one_step(size: str, side: int) -> None:
    """Take a step and print what it computed, as it goes."""
    detector = build_detector(
        make_config(size, side), num_classes=NUM_CLASSES, image_size=(side, side)
    )

    @jax.jit
    def init(key):
        # Nothing of them is float32 for longer than it takes to round it.
        params, model_state = detector.init(key)
        return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params), model_state

    params, model_state = jax.block_until_ready(init(jax.random.key(0)))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f"{count / 1e6:.1f} M parameters in bfloat16, {memory()}", flush=True)
    labels = label_tree(params)
    tx = modulate(optax.sgd(RATE), tau=1)
    batch = make_batch(2, side)
    halves = [jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], batch) for i in (0, 1)]
    gradient = jax.jit(jax.value_and_grad(detector.loss, has_aux=True))

    def halfs_gradient(params, half):
        key = jax.random.key(1)
        (loss, (_, parts)), slopes = gradient(params, model_state, half, key)
        return loss, parts, slopes

    @jax.jit
    def measure(a, b):
        return stats_from_halves(products_of_halves(a, b, labels))

    def update(params, opt_state, a, b, phi):
        slopes = jax.tree.map(lambda x, y: (x + y) / 2, a, b)
        updates, opt_state = tx.update(slopes, opt_state, params, phi=phi)
        return optax.apply_updates(params, updates), opt_state

    update = jax.jit(update, donate_argnums=(0, 2, 3))
    opt_state = tx.init(params)
    losses, slopes = [], []
    for half in halves:
        started = time.perf_counter()
        loss, parts, slope = jax.block_until_ready(halfs_gradient(params, half))
        seconds = time.perf_counter() - started
        losses.append(float(loss))
        slopes.append(slope)
        named = ", ".join(f"{name} {float(part):.3f}" for name, part in parts.items())
        print(f"loss {float(loss):.4f} in {seconds:.0f} s ({named}), {memory()}")
    stats = jax.block_until_ready(measure(*slopes))
    for name, phi in stats.phi.items():
        print(f"phi {name} {float(phi):.4f}", flush=True)
    params, opt_state = update(params, opt_state, *slopes, stats.phi)
    del slopes, slope
    for name, mu in optax.tree.get(opt_state, "AgvmState").mu.items():
        print(f"mu {name} {float(mu):.4f}")
    again = float(halfs_gradient(params, halves[0])[0])
    print(f"loss of the first half {losses[0]:.4f} -> {again:.4f}, {memory()}")


def memory() -> str:
    """Return the most memory that this process has had."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return f"at most {most / GIGABYTE:.1f} GB so far"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["b0", "b6", "1b"])
    parser.add_argument("--one-by-one", action="store_true", help="no scan over blocks")
    parser.add_argument("--step", help="take a step of this size, compile no table")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument(
        "--repeats", nargs=6, type=int, help="blocks of each stage, for less memory"
    )
    args = parser.parse_args()
    if args.step:
        if args.repeats:
            SIZES[args.step] = SIZES[args.step]._replace(repeats=tuple(args.repeats))
        one_step(args.step, args.image_size)
        return
    rows = []
    for size in args.sizes:
        rows.append(compile_backbone(size, not args.one_by_one))
        print(rows[-1], flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
