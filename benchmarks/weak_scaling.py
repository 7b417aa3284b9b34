"""Weak scaling: what a device sends and computes when devices and batch grow together.

    python -m benchmarks.weak_scaling            # bytes: 1 to 8 CPU devices, then TPUs
    python -m benchmarks.weak_scaling --time     # seconds, on the CPU
    python -m benchmarks.weak_scaling --write    # puts the bytes into docs/scaling.md

The trainer's own steps in each mode of `train.shard`, around a loss that reads every
parameter of RetinaNet ResNet-18 and nothing else, are compiled for ever more devices.
"full" shares parameters among 4 devices, one host's of a TPU pod, or all where there
are fewer. Nothing runs but with --time. TPUs are compiled for by libtpu, where it is
installed.
"""

import argparse
import importlib.util
import os
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")

import jax  # noqa: E402
import numpy as np  # noqa: E402

from agvm_jax.compiling.collectives import collectives  # noqa: E402
from agvm_jax.compiling.machine import find_machine  # noqa: E402
from agvm_jax.optim.modules import label_tree  # noqa: E402
from agvm_jax.optim.noise import noise_init  # noqa: E402
from agvm_jax.training.batching import plan_batches  # noqa: E402
from agvm_jax.training.mesh import data_mesh, put_batch  # noqa: E402
from agvm_jax.training.recipes import build_optimizer  # noqa: E402
from agvm_jax.training.state import create_state  # noqa: E402
from agvm_jax.training.step import TrainStep  # noqa: E402
from benchmarks.collectives import detector_params  # noqa: E402
from benchmarks.sharded_collectives import lower_step  # noqa: E402
from benchmarks.train_step import make_batch  # noqa: E402
from configs import base  # noqa: E402
from models.build import build_detector  # noqa: E402

PAGE = Path(__file__).parents[1] / "docs/scaling.md"
BEGIN = "<!-- benchmarks.weak_scaling begins -->"
END = "<!-- benchmarks.weak_scaling ends -->"
SLICES = ("v5e:2x4", "v5e:8x8", "v5e:16x16", "v5p:8x8x8", "v5p:8x8x16")
MODES = ("none", "optimizer", "full")
FSDP = 4


def sent(mode: str, params, devices) -> float:
    """Returns the bytes that a device sends in a step that measures phi by norms."""
    n = len(devices)
    if n == 1:
        return 0.0
    lowered, *_ = lower_step(mode, min(FSDP, n), "norms", True, params, devices)
    return sum(one.moved for one in collectives(lowered.compile().as_text(), n))


def rows(names, params):
    """Yields the lines of the table: one for each number of devices."""
    yield f"| devices | {' | '.join(MODES)} |"
    yield "|---" * (1 + len(MODES)) + "|"
    for name in names:
        if name.startswith("cpu"):
            devices = jax.devices()[: int(name.partition(":")[2])]
        else:
            devices = find_machine(f"tpu:{name}").devices
        numbers = [f"{sent(mode, params, devices) / 1e6:.1f}" for mode in MODES]
        kind = name.partition(":")[0].replace("cpu", "CPU")
        yield f"| {len(devices)} {kind} | {' | '.join(numbers)} |"


def time_steps(side: int, turns: int) -> None:
    """Times a step of two images a device on 1 to 8 devices of the CPU, in turns."""
    config = base.get_config()
    config.model.update(width=0.25, fpn_channels=32)
    config.agvm.update(estimator="norms")
    runs = {}
    for n in (1, 2, 4, 8):
        mesh = data_mesh(jax.devices()[:n])
        detector = build_detector(
            config.model, num_classes=8, image_size=(side, side), axis_name="data"
        )
        # One device alone takes two micro-batches of one: AGVM compares two groups.
        plan = plan_batches(2 * n, n, 1, estimator="norms")
        recipe = build_optimizer(
            config.optim, config.agvm, batch_size=16, total_steps=9, steps_per_epoch=9
        )
        params, model_state = detector.init(jax.random.key(0))
        step = TrainStep(detector.loss, recipe, plan, mesh, label_tree(params))
        state = create_state(
            params, model_state, recipe.tx.init(params), noise_init(params), 0
        )
        batch = put_batch(mesh, make_batch(n, side))
        runs[n] = [step, jax.device_put(state, jax.NamedSharding(mesh, jax.P())), batch]
    seconds = {n: [] for n in runs}
    for turn in range(turns + 1):
        for n, run in runs.items():
            step, state, batch = run
            wall, used = time.perf_counter(), time.process_time()
            state, metrics = step(state, iter([batch, batch]), 0)
            jax.block_until_ready((state, metrics))
            run[1] = state
            if turn:
                seconds[n].append(
                    (time.perf_counter() - wall, time.process_time() - used)
                )
    print(f"two images of {side} px a device; medians of {turns} turns")
    for n, pairs in seconds.items():
        wall, used = np.median(pairs, axis=0)
        print(
            f"{n} devices: {wall:.3f} s, {used:.3f} s of the processor,"
            f" {used / n:.3f} a device"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--time", action="store_true", help="seconds instead of bytes")
    parser.add_argument("--write", action="store_true", help="into docs/scaling.md")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--image-size", type=int, default=64)
    args = parser.parse_args()
    if args.time:
        time_steps(args.image_size, args.turns)
        return
    params = detector_params("retinanet", "resnet18")
    size = sum(4 * leaf.size for leaf in jax.tree.leaves(params))
    print(f"RetinaNet ResNet-18, {size / 1e6:.1f} MB of parameters; MB a device sends")
    names = [f"cpu:{n}" for n in (1, 2, 4, 8)]
    if importlib.util.find_spec("libtpu"):
        names += SLICES
    lines = []
    for line in rows(names, params):
        print(line, flush=True)
        lines.append(line)
    if args.write:
        before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
        table = "\n".join(lines)
        after = rest.partition(END)[2]
        PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
