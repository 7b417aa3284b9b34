"""Images a second of the data pipeline, per core, beside a torchvision-style loader.

    python -m benchmarks.data                        # JPEGs that it makes itself
    python -m benchmarks.data --root COCO_FOLDER     # instances_train.json, train/
    python -m benchmarks.data --peer-python PATH     # a Python that has torchvision

Both sides make training batches of 800 x 1333 with flips from the same JPEGs: shorter
side 800, longer side at most 1333. Ours is `train_batches`, which hands out uint8 and
leaves normalising to the device. The peer decodes and resizes with PIL, makes tensors,
normalises and pads to the largest of the batch; without torchvision NumPy does what
torch would. "float32 on the host" is ours with that normalising added. All take turns,
each on one core, in threads and processes of their own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from agvm_jax.data.augment.augmentation import Augmentation, draw
from agvm_jax.data.augment.decode import decode_image, jpeg_divisor
from agvm_jax.data.dataset import open_dataset
from agvm_jax.data.example import fill_row
from agvm_jax.data.order import oriented
from agvm_jax.data.pipeline import train_batches
from agvm_jax.data.storage.records import Source
from benchmarks.coco_writer import coco_content, write_split
from benchmarks.turns import Worker, serve, summary
from configs import base

FRAME = (800, 1344)
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class First:
    """The first images of a source."""

    def __init__(self, source: Source, count: int):
        self._source = source
        self._count = min(count, len(source))
        self.sizes = source.sizes[: self._count]

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict:
        return self._source[index]


def make_jpegs(root: Path, count: int) -> None:
    """Write a COCO folder of textured pictures, as large in bytes as COCO's are."""
    rng = np.random.default_rng(0)
    images, objects, outlines, pictures = [], [], [], {}
    for i in range(1, count + 1):
        height, width = ((480, 640), (640, 480), (427, 640), (375, 500))[i % 4]
        coarse = rng.integers(0, 256, (9, 12, 3), np.uint8)
        picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        noise = rng.normal(0, 14, (height, width, 1))
        noise = cv2.GaussianBlur(noise, (0, 0), 0.8)[..., None] * 1.5
        picture = (picture + noise).clip(0, 255).astype(np.uint8)
        quality = [cv2.IMWRITE_JPEG_QUALITY, 92]
        pictures[f"{i}.jpg"] = cv2.imencode(".jpg", picture, quality)[1].tobytes()
        images.append((f"{i}.jpg", height, width))
        for _ in range(7):
            x, y = rng.uniform(0, width * 0.6), rng.uniform(0, height * 0.6)
            w, h = rng.uniform(10, width * 0.4), rng.uniform(10, height * 0.4)
            objects.append((i, (x, y, w, h)))
            outlines.append([[x, y, x + w, y, x + w, y + h, x, y + h]])
    content = coco_content(images, objects, segmentations=outlines)
    write_split(root / "instances_train.json", root / "train", content, pictures)


def open_source(args) -> tuple[First, object]:
    """The images to read, and the config section that says how."""
    config = base.get_config().data
    config.name, config.root, config.cache_dir = "coco_folder", args.root, args.cache
    config.val_annotations, config.val_images = "instances_train.json", "train"
    config.short_sides, config.long_side = (800,), 1333
    config.orientation_group = args.batch_size
    config.num_threads, config.prefetch = 1, 1
    config.mask_size = args.mask_size
    return First(open_dataset(config).train, args.images), config


def make_step(args):
    """Return a function that makes batches of as many images as there are."""
    source, config = open_source(args)
    batches = max(1, len(source) // args.batch_size)
    done = 0

    def step():
        # A new stream each time, so that nothing is read ahead between turns.
        nonlocal done
        stream = train_batches(
            source,
            image_size=FRAME,
            batch_size=args.batch_size,
            seed=0,
            data_config=config,
            start_batch=done,
        )
        for _ in range(batches):
            batch = next(stream)
            if args.float32:
                normalize(batch.image)
        stream.close()
        done += batches

    return step, batches * args.batch_size


def normalize(images: np.ndarray) -> np.ndarray:
    """(B, H, W, 3) uint8 -> float32."""
    result = np.subtract(images, np.array(MEAN, np.float32), dtype=np.float32)
    result *= 1 / np.array(STD, np.float32)
    return result


def stages(args) -> dict[str, float]:
    """Milliseconds of processor time an image of each stage, one after the other."""
    source, config = open_source(args)
    augmentation = Augmentation.of(config)
    cv2.setNumThreads(0)
    spent: dict[str, float] = {}

    def timed(name, function, *arguments):
        start = time.thread_time()
        result = function(*arguments)
        spent[name] = spent.get(name, 0.0) + time.thread_time() - start
        return result

    pictures: dict[tuple[int, int], list[np.ndarray]] = {}
    for index in range(len(source)):
        rng = np.random.default_rng(index)
        example = timed("read the record", source.__getitem__, index)
        size = (example["height"], example["width"])
        frame = oriented(FRAME, size)
        drawn = timed("draw the augmentation", draw, rng, size, frame, augmentation)
        place, data = drawn.placement, example["image"]
        code = example["turn"]
        divisor = jpeg_divisor(data, size, place.resized, code)
        image = timed("decode", decode_image, data, size, divisor, code)
        image = timed("resize, flip, pad", place.image, image, frame, divisor)
        timed("boxes and masks", fill_row, image, example, drawn, frame, config, rng)
        pictures.setdefault(frame, []).append(image)
    for same in pictures.values():
        for start in range(0, len(same), args.batch_size):
            batch = same[start : start + args.batch_size]
            batch = timed("stack the batch", np.stack, batch)
            timed("(float32 on the host: not done)", normalize, batch)
    return {name: 1000 * seconds / len(source) for name, seconds in spent.items()}


def can_import_torchvision(python: str) -> bool:
    command = [python, "-c", "import torchvision"]
    return subprocess.run(command, capture_output=True).returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="", help="a COCO folder; default: made up")
    parser.add_argument("--images", type=int, default=64, help="images a turn")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--mask-size", type=int, default=0, help="ours alone has masks")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--core", type=int, default=0, help="the core to run on")
    parser.add_argument("--cache", default="", help=argparse.SUPPRESS)
    parser.add_argument("--float32", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--stages", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker or args.stages:
        run_on_one_core(args.core)
        if args.stages:
            print(json.dumps(stages(args)))
            return
        step, _ = make_step(args)
        serve(step, 1)
        return
    with tempfile.TemporaryDirectory() as folder:
        args.cache = os.path.join(folder, "cache")
        if not args.root:
            args.root = os.path.join(folder, "made_up")
            make_jpegs(Path(args.root), args.images)
        compare(args)


def compare(args) -> None:
    """Let all take turns, and print what they say."""
    options = [
        f"--{name}={getattr(args, name.replace('-', '_'))}"
        for name in ("root", "images", "batch-size", "core")
    ]
    mine = [sys.executable, "-m", "benchmarks.data", *options, f"--cache={args.cache}"]
    mine.append(f"--mask-size={args.mask_size}")
    torch = can_import_torchvision(args.peer_python)
    peer = [args.peer_python, "-m", "benchmarks.torchvision_loader", *options]
    peer.append(f"--kind={'torchvision' if torch else 'numpy'}")
    _, images = make_step(args)  # prepares the set
    sides = {
        "ours": Worker([*mine, "--worker"]),
        "float32 on the host": Worker([*mine, "--worker", "--float32"]),
        "torchvision" if torch else "PIL and NumPy": Worker(peer),
    }
    turns = [
        {name: side.run() for name, side in sides.items()} for _ in range(args.turns)
    ]
    for side in sides.values():
        side.close()
    width = max(map(len, sides)) + 2
    print(f"{images} images a turn, one core; images a second of processor time, ratio")
    for name in sides:
        rates = [images / turn[name].processor for turn in turns]
        print(f"{name:<{width}}" + summary(rates, " images/s"))
    for name in list(sides)[:2]:
        *_, other = sides
        for unit in ("processor", "clock"):
            ratios = [
                getattr(turn[other], unit) / getattr(turn[name], unit) for turn in turns
            ]
            print(f"{name} / {other}, by {unit}: {summary(ratios)}")
    for title, command in (("ours", mine), (list(sides)[-1], peer)):
        done = subprocess.run(
            [*command, "--stages"], capture_output=True, text=True, check=True
        )
        table = json.loads(done.stdout.splitlines()[-1])
        whole = sum(ms for name, ms in table.items() if not name.startswith("("))
        print(f"\n{title}: ms an image, {whole:.2f} in all")
        for name, ms in table.items():
            print(f"  {name:<36}{ms:7.2f}")


def run_on_one_core(core: int) -> None:
    """Where the system can; threads started later stay on it too."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[core]})


if __name__ == "__main__":
    main()
