"""Images a second of a training step, its share of the chip's peak, and torchvision's.

ResNet-50, bfloat16, SGD, images of 1,024 x 1,024 (as many pixels as the 832 x 1,344 of
COCO's usual frame), trained BatchNorm. The two sides take turns in processes of their
own; the ratio is taken turn by turn.
"""

import argparse
import json
import subprocess
import sys

from benchmarks.on_gpu.lines import Lines, arguments, read_lines
from benchmarks.train_step import SHARED, can_import_torchvision
from benchmarks.turns import Worker

DETECTORS = ("retinanet", "faster_rcnn", "mask_rcnn")
TURNS = 3


def settings(detector: str, dry_run: bool) -> argparse.Namespace:
    """Return what `benchmarks.train_step` and its peer are asked for."""
    return argparse.Namespace(
        detector=detector,
        backbone="resnet18" if dry_run else "resnet50",
        norm="local",
        image_size=128 if dry_run else 1024,
        batch_size=2 if dry_run else 8,
        steps=1 if dry_run else 10,
        dtype="float32" if dry_run else "bfloat16",
    )


def flags(options: argparse.Namespace) -> list[str]:
    """Return them as a command line."""
    return [f"--{key}={getattr(options, key.replace('-', '_'))}" for key in SHARED]


def operations(options: argparse.Namespace) -> float | None:
    """Return the operations of a step, as counted before the compiler changes it.

    In a process of its own, which holds no memory of the chip afterwards.
    """
    command = [sys.executable, "-m", "benchmarks.on_gpu.speed", "--operations"]
    done = subprocess.run(
        [*command, json.dumps(vars(options))], capture_output=True, text=True
    )
    return float(done.stdout.split()[-1]) if done.returncode == 0 else None


def print_operations(text: str) -> None:
    """Print what `operations` reads: for the forms of GPUs, loops taken once."""
    import jax

    from benchmarks.train_step import make_program
    from models.ops.forms import use_forms

    options = argparse.Namespace(**json.loads(text))
    jax.config.update("jax_platforms", "cpu")
    with use_forms("gpu"):
        train_step, *operands = make_program(options)
        lowered = jax.jit(train_step).lower(*operands)
    print(lowered.cost_analysis()["flops"])


def measure(detector: str, peak: float | None, args, lines: Lines) -> None:
    """Time one detector beside torchvision's."""
    options = settings(detector, args.dry_run)
    count = operations(options)
    command = [sys.executable, "-m", "benchmarks.train_step", "--worker"]
    ours = Worker(command + flags(options))
    peer = None
    if can_import_torchvision(args.peer_python):
        command = [args.peer_python, "-m", "benchmarks.torchvision_step"]
        peer = Worker(command + flags(options))
    turns = []
    for _ in range(TURNS):
        if turns and lines.left() < 10:
            break
        turns.append((ours.run().clock, peer.run().clock if peer else None))
    for worker in filter(None, (ours, peer)):
        worker.close()
    mine = sorted(seconds for seconds, _ in turns)
    figures = {"images_a_second": options.batch_size / mine[len(mine) // 2]}
    if count:
        figures["tflop_a_step"] = count / 1e12
        if peak:
            figures["share_of_peak"] = count / mine[0] / 1e12 / peak
    if peer:
        ratios = sorted(theirs / own for own, theirs in turns)
        figures["times_torchvision"] = ratios[len(ratios) // 2]
        figures["least"], figures["most"] = ratios[0], ratios[-1]
    lines.add(detector, **figures)


def main() -> None:
    if sys.argv[1:2] == ["--operations"]:
        print_operations(sys.argv[2])
        return
    args = arguments(__doc__, peer=True)
    lines = Lines("speed", args)
    peaks = [
        line["tflops"]
        for line in read_lines(args.out)
        if line["name"] == "bf16 product"
    ]
    for detector in DETECTORS[:1] if args.dry_run else DETECTORS:
        if not lines.room_for(30, detector):
            continue
        try:
            measure(detector, peaks[0] if peaks else None, args, lines)
        except SystemExit as error:  # a side that stopped, by its own message
            lines.add(detector, ok=False, error=str(error)[:200])
    lines.finish()


if __name__ == "__main__":
    main()
