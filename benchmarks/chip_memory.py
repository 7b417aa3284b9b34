"""Whether a training step fits a TPU that is not there.

    python -m benchmarks.chip_memory                               # Faster R-CNN, v5e
    python -m benchmarks.chip_memory --detector mask_rcnn --pod v5e:2x2 --batch 2 4

The step of a detector at 832 x 1344 px in bfloat16, with SGD and AGVM over all devices
of the pod, is compiled by the chip's own compiler (libtpu), which refuses programs that
do not fit. Each line says what a device holds and does: parameters and optimizer,
temporary memory, operations and bytes moved a step. Loops are counted by the compiler
as one turn each, so operations and bytes are lower bounds.
"""

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")

import jax  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from jax.experimental import topologies  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402

from agvm_jax import modulate, value_and_local_grad  # noqa: E402
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
        anchor_scales=3 if args.detector == "retinanet" else 1,
    )
    size = tuple(args.image_size)
    detector = build_detector(
        config,
        num_classes=NUM_CLASSES,
        image_size=size,
        axis_name=AXIS,
        freeze_at=args.freeze_at,
    )
    tx = modulate(optax.sgd(0.02, momentum=0.9), AXIS, estimator="replicas")
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
    parser.add_argument("--pod", default="v5e:2x2", help="a TPU topology's name")
    parser.add_argument("--text", type=Path, help="folder for the compiled programs")
    args = parser.parse_args()
    pod = topologies.get_topology_desc(platform="tpu", topology_name=args.pod)
    mesh = Mesh(np.asarray(pod.devices).ravel(), (AXIS,))
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
        f"{args.detector} {args.backbone}, {args.image_size} px, TPU {args.pod},"
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
        memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
        print(
            f"{images} a device: held {memory.argument_size_in_bytes / GIGABYTE:.2f} GB"
            f", temporary {memory.temp_size_in_bytes / GIGABYTE:.2f} GB,"
            f" {cost['flops'] / 1e12:.2f} Tflop, {cost['bytes accessed'] / 1e9:.1f} GB"
            f" moved; compiled in {time.perf_counter() - start:.0f} s",
            flush=True,
        )
        if args.text:
            args.text.mkdir(parents=True, exist_ok=True)
            name = f"{args.detector}_{args.backbone}_{images}.txt"
            (args.text / name).write_text(compiled.as_text())


if __name__ == "__main__":
    main()
