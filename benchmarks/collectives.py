"""What AGVM's measurement adds to the traffic and the time of a training step.

    python -m benchmarks.collectives           # bytes, on 8 CPU devices and TPU pods
    python -m benchmarks.collectives --time    # seconds, on the CPU

Ways to average the gradients of RetinaNet ResNet-50 are compiled: the plain mean; the
paper's way to phi, an all-reduce for each half of the replicas; our halves; our norms;
and "between", the trainer's other program, for the steps between two measurements by
halves. "tau 10" is the mean of one step by halves and nine between. Each line says how
many collectives of each kind the program holds, the bytes that a device sends, and the
ratio to the plain mean, as the program asks for them and as the compiler turned them
out. Nothing is run, so no accelerator is needed: pods are compiled for by libtpu, if it
is installed. The gradients are arguments, since nothing in the backward pass
communicates. Then the trainer's own steps follow, in each mode of `train.shard`.
"""

import argparse
import functools
import importlib.util
import os
import statistics
import sys
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")

import jax  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from jax.experimental import topologies  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402

from agvm_jax import (  # noqa: E402
    GroupPlan,
    label_tree,
    mean_and_phi,
    modulate,
    value_and_local_grad,
)
from agvm_jax.compiling.collectives import KINDS, collectives  # noqa: E402
from agvm_jax.optim.reduction import mean_gradients  # noqa: E402
from benchmarks.sharded_collectives import print_modes  # noqa: E402
from configs import base  # noqa: E402
from models.build import build_detector  # noqa: E402

AXIS = "data"
VARIANTS = ("plain mean", "paper", "halves", "norms", "between")
PODS = ("v5e:8x8", "v6e:16x16", "v5p:8x8x8", "v4:8x8x8")  # 64 to 1024 devices


def average(variant: str, grads, labels, split: str):
    """Return the mean gradients and phi, by one of the variants."""
    if variant == "plain mean":
        return mean_gradients(grads, AXIS), {}
    estimator = "norms" if variant == "norms" else "halves"
    if variant == "between":
        plan = GroupPlan(labels, AXIS, jax.lax.axis_size(AXIS), split=split)
        groups = plan.add(plan.init(grads), grads)
        return plan.finish(groups, measure=False)[0], {}
    route = "masked" if variant == "paper" else "auto"
    mean, stats = mean_and_phi(grads, AXIS, labels, estimator, split, route=route)
    return mean, stats.phi


def compile_step(variant: str, params, devices, split: str = "interleaved"):
    """Return the averaging by a variant for these devices, lowered and compiled.

    Args:
      params: pytree of `jax.ShapeDtypeStruct`.
      devices: real ones, or those of a topology.
    """
    mesh = Mesh(np.asarray(devices).ravel(), (AXIS,))
    labels = label_tree(params)
    whole, rows = PartitionSpec(), PartitionSpec(AXIS)

    def step(grads):
        grads = jax.tree.map(lambda leaf: leaf[0], grads)
        return average(variant, grads, labels, split)

    mapped = jax.shard_map(
        step, mesh=mesh, in_specs=rows, out_specs=whole, check_vma=False
    )

    def stacked(leaf):
        shape = (mesh.size, *leaf.shape)
        sharding = NamedSharding(mesh, rows)
        return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=sharding)

    lowered = jax.jit(mapped).lower(jax.tree.map(stacked, params))
    return lowered, lowered.compile()


def traffic(variant: str, params, devices, split: str = "interleaved"):
    """Return the collectives that a variant asks for, and those it is compiled to."""
    lowered, compiled = compile_step(variant, params, devices, split)
    n = np.size(devices)
    return (
        collectives(lowered.as_text(dialect="hlo"), n),
        collectives(compiled.as_text(), n),
    )


def moved(found) -> float:
    """Return the bytes that a device sends in these collectives."""
    return sum(collective.moved for collective in found)


def detector_params(detector: str, backbone: str):
    """Return the shapes of a detector's parameters."""
    config = base.get_config().model
    config.update(detector=detector, backbone=backbone)
    built = build_detector(config, num_classes=80, image_size=(256, 256))
    return jax.eval_shape(built.init, jax.random.key(0))[0]


def print_table(title: str, params, devices, split: str) -> None:
    """Compile every variant for these devices and print a line for each."""
    print(f"\n{title}")
    print(f"{'':12}{'asked for':>10}{'compiled':>10}{'MB/device':>11}  compiled to")
    plain = {}
    for variant in VARIANTS:
        asked, compiled = traffic(variant, params, devices, split)
        plain.setdefault("asked", moved(asked))
        plain.setdefault("compiled", moved(compiled))
        kinds = [found.kind for found in compiled]
        counts = ", ".join(f"{kinds.count(k)} {k}" for k in KINDS if k in kinds)
        print(
            f"{variant:12}{moved(asked) / plain['asked']:10.4f}"
            f"{moved(compiled) / plain['compiled']:10.4f}"
            f"{moved(compiled) / 1e6:11.1f}  {counts}",
            flush=True,
        )
        plain[variant] = moved(compiled) / plain["compiled"]
    print(f"{'tau 10':12}{'':10}{(plain['halves'] + 9 * plain['between']) / 10:10.4f}")


def time_steps(estimator: str, args) -> list[float]:
    """Return step-time ratios AGVM on / off, one a turn of `tau` steps each.

    The step is a real one: two replicas of the CPU, two images each, AdamW. Both sides
    take their turns one after the other, in changing order.
    """
    from benchmarks.train_step import make_batch

    config = base.get_config().model
    config.update(detector=args.detector, backbone=args.backbone, norm="frozen")
    side, tau = args.image_size, args.tau
    detector = build_detector(config, num_classes=91, image_size=(side, side))
    mesh = Mesh(np.array(jax.devices()[:2]), (AXIS,))
    batch = make_batch(4, side)
    plain = optax.adamw(1e-4)

    def run(modulated: bool):
        tx = modulate(plain, AXIS, estimator=estimator, tau=tau) if modulated else plain
        loss_and_grad = value_and_local_grad(detector.loss, AXIS)

        def step(carry, batch, key):
            params, model_state, opt_state = carry
            (loss, (model_state, _)), grads = loss_and_grad(
                params, model_state, batch, key
            )
            if not modulated:
                grads = mean_gradients(grads, AXIS)
            updates, opt_state = tx.update(grads, opt_state, params)
            params = optax.apply_updates(params, updates)
            return (params, model_state, opt_state), jax.lax.pmean(loss, AXIS)

        whole, rows = PartitionSpec(), PartitionSpec(AXIS)
        mapped = jax.shard_map(
            step,
            mesh=mesh,
            in_specs=(whole, rows, whole),
            out_specs=whole,
            check_vma=False,
        )
        params, model_state = detector.init(jax.random.key(0))
        carry = params, model_state, tx.init(params)
        compiled = jax.jit(mapped, donate_argnums=0)
        carry, _ = compiled(carry, batch, jax.random.key(1))

        def turn() -> float:
            nonlocal carry
            start = time.perf_counter()
            for _ in range(tau):
                carry, loss = compiled(carry, batch, jax.random.key(1))
            jax.block_until_ready((carry, loss))
            return time.perf_counter() - start

        return turn

    off, on = run(False), run(True)
    ratios = []
    for index in range(args.turns + 1):
        order = (off, on) if index % 2 else (on, off)
        seconds = {id(turn): turn() for turn in order}
        if index:  # the first turn warms caches
            ratios.append(seconds[id(on)] / seconds[id(off)])
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--detector", default="retinanet")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--split", default="interleaved", help="or contiguous")
    parser.add_argument("--pods", nargs="*", default=PODS, help="TPU topology names")
    parser.add_argument("--time", action="store_true", help="seconds instead of bytes")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--tau", type=int, default=10)
    parser.add_argument(
        "--image-size", type=int, default=256, help="of the step that is timed"
    )
    args = parser.parse_args()
    if args.time:
        for estimator in ("halves", "norms"):
            ratios = sorted(time_steps(estimator, args))
            print(
                f"{estimator}: AGVM on / off {statistics.median(ratios):.3f} "
                f"({ratios[0]:.3f} to {ratios[-1]:.3f}, {args.turns} turns of "
                f"{args.tau} steps)"
            )
        return

    params = detector_params(args.detector, args.backbone)
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]
    print(
        f"{args.detector} {args.backbone}: {sum(sizes) / 1e6:.1f} M parameters in "
        f"{len(sizes)} arrays, modules {', '.join(params)}; jax {jax.__version__}"
    )
    devices = jax.devices()
    print_table(f"CPU, {len(devices)} devices", params, devices, args.split)
    print_modes(params, devices)
    if importlib.util.find_spec("libtpu") is None:
        print("\nlibtpu is not installed here: no TPU pods", file=sys.stderr)
        return
    describe = functools.partial(topologies.get_topology_desc, platform="tpu")
    for name in args.pods:
        devices = describe(topology_name=name).devices
        print_table(f"TPU {name}, {len(devices)} devices", params, devices, args.split)


if __name__ == "__main__":
    main()
