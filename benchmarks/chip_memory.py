"""Whether a training step fits a TPU or GPU that is not there, and what it does on it.

    python -m benchmarks.chip_memory                               # Faster R-CNN, v5e
    python -m benchmarks.chip_memory --detector mask_rcnn --pod tpu:v5e:2x2 --batch 2 4
    python -m benchmarks.chip_memory --pod cuda:a100:1x4           # with jax[cuda12]

The step of a detector at 832 x 1344 px in bfloat16, with SGD and AGVM over all devices
of the pod, is compiled by the chip's own compiler. That of TPUs refuses programs that
do not fit and estimates the cycles of each part; that of GPUs does neither, and leaves
out the working space of cuDNN, which is chosen on the device.

Each line says what a device holds and needs for a while; below it stands what moves
bytes, operates and takes time outside of convolutions and matrix products, by file.
The one loop whose length depends on the data is taken to have the turns of `TURNS`.
"""

import argparse
import dataclasses
import os
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402

from agvm_jax import modulate, value_and_local_grad  # noqa: E402
from agvm_jax.compiling.machine import find_machine  # noqa: E402
from agvm_jax.compiling.program_cost import Cost, costs  # noqa: E402
from agvm_jax.compiling.programs import TURNS  # noqa: E402
from benchmarks.train_step import make_batch  # noqa: E402
from configs import base  # noqa: E402
from models.build import build_detector  # noqa: E402

AXIS = "data"
NUM_CLASSES = 80
GIGABYTE = 2**30


def make_step(args, num_devices: int):
    """Return a training step and the shapes of its arguments."""
    config = base.get_config().model
    config.update(
        detector=args.detector,
        backbone=args.backbone,
        dtype="bfloat16",
        op_forms="gpu" if args.pod.startswith("cuda") else "tpu",
    )
    config.anchors.scales = 3 if args.detector == "retinanet" else 1
    size = tuple(args.image_size)
    detector = build_detector(
        config,
        num_classes=NUM_CLASSES,
        image_size=size,
        axis_name=AXIS,
        freeze_at=args.freeze_at,
    )
    tx = modulate(optax.sgd(0.02, momentum=0.9), AXIS, estimator="norms")
    loss_and_grad = value_and_local_grad(detector.loss, AXIS)

    def step(carry, batch, key):
        params, model_state, opt_state = carry
        (loss, (model_state, _)), grads = loss_and_grad(params, model_state, batch, key)
        updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        return (params, model_state, opt_state), jax.lax.pmean(loss, AXIS)

    params, model_state = jax.eval_shape(detector.init, jax.random.key(0))
    carry = params, model_state, jax.eval_shape(tx.init, params)

    def batch_of(images: int):
        one = make_batch(1, 64)
        rows = images * num_devices

        def shape(array):
            inner = (*size, 3) if array.ndim == 4 and array.shape[-1] == 3 else None
            return jax.ShapeDtypeStruct(
                (rows, *(inner or array.shape[1:])), array.dtype
            )

        return jax.tree.map(shape, one)

    return step, carry, batch_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--detector", default="faster_rcnn")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--freeze-at", type=int, default=2, help="train.freeze_at")
    parser.add_argument("--image-size", type=int, nargs=2, default=(832, 1344))
    parser.add_argument("--batch", type=int, nargs="*", default=(2, 4, 8))
    parser.add_argument("--pod", default="tpu:v5e:2x2", help="or cuda:a100:1x4, ...")
    parser.add_argument("--text", type=Path, help="folder for the compiled programs")
    args = parser.parse_args()
    machine = find_machine(args.pod)
    mesh = Mesh(np.asarray(machine.devices).ravel(), (AXIS,))
    whole, rows = PartitionSpec(), PartitionSpec(AXIS)
    step, carry, batch_of = make_step(args, mesh.size)
    mapped = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(whole, rows, whole),
        out_specs=whole,
        check_vma=False,
    )
    key = jax.eval_shape(lambda: jax.random.key(0))

    def placed(tree, spec):
        sharding = NamedSharding(mesh, spec)
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=sharding
            ),
            tree,
        )

    print(
        f"{args.detector} {args.backbone}, {args.image_size} px, {args.pod},"
        f" train.freeze_at={args.freeze_at}"
    )
    for images in args.batch:
        start = time.perf_counter()
        lowered = jax.jit(mapped, donate_argnums=0).lower(
            placed(carry, whole), placed(batch_of(images), rows), placed(key, whole)
        )
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            print(f"{images} a device: {str(error).splitlines()[0][:300]}", flush=True)
            continue
        report(compiled, images, args, machine.memory, time.perf_counter() - start)


def report(compiled, images: int, args, room: float, seconds: float) -> None:
    """Print what a program takes, and keep its text."""
    memory, text = compiled.memory_analysis(), compiled.as_text()
    held, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    print(
        f"{images} a device: held {held / GIGABYTE:.2f} GB, temporary"
        f" {temporary / GIGABYTE:.2f} GB of {room / GIGABYTE:.0f} GB; compiled in"
        f" {seconds:.0f} s"
    )
    found, guessed = costs(text, TURNS)
    print(describe(found), flush=True)
    if guessed:
        print(f"  turns taken for granted: {', '.join(sorted(guessed))}", flush=True)
    if args.text:
        args.text.mkdir(parents=True, exist_ok=True)
        name = f"{args.detector}_{args.backbone}_{images}.txt"
        (args.text / name).write_text(text)


def describe(found: dict[tuple[bool, str], Cost], rows: int = 8) -> str:
    """Return a table: convolutions and products, and the largest of the rest."""
    kinds = [field.name for field in dataclasses.fields(Cost)]
    sums = {kind: sum(getattr(c, kind) for c in found.values()) for kind in kinds}
    kinds = [kind for kind in kinds if sums[kind]]  # a GPU's compiler tells no cycles
    units = {"bytes": (1e9, "GB"), "flops": (1e12, "Top"), "cycles": (1e6, "M")}
    products = [cost for (product, _), cost in found.items() if product]
    rest = {source: cost for (product, source), cost in found.items() if not product}

    def line(name, some):
        parts = [
            sum(getattr(cost, kind) for cost in some) / sums[kind] for kind in kinds
        ]
        return f"  {name:34s}" + "".join(f"{100 * part:9.1f} %" for part in parts)

    main = "cycles" if "cycles" in kinds else "bytes"
    whole = [f"{sums[k] / units[k][0]:7.1f} {units[k][1]:3s}" for k in kinds]
    largest = sorted(rest, key=lambda source: -getattr(rest[source], main))[:rows]
    return "\n".join(
        [
            f"  {'':34s}" + "".join(f"{kind:>11s}" for kind in kinds),
            f"  {'all':34s}" + "".join(whole),
            line("convolutions, matrix products", products),
            line("everything else", rest.values()),
            *(line(f"  {source}", [rest[source]]) for source in largest),
        ]
    )


if __name__ == "__main__":
    main()
