"""Part b: RetinaNet on generated shapes at batch 512 and 1,024, with AGVM and without.

The runs are those of `benchmarks.paper`, larger: 64 px, three classes, a ResNet-18 of
half the width, 524,288 fresh images. Rates are swept for AdamW and for AGVM around it
(halves and norms), then three seeds of each one's best. A run should take well under a
minute on such a chip (an estimate: none has run), and one that is done is never run
again: `--earlier FOLDER` goes on from what an earlier call left.
"""

import dataclasses
import shutil
from types import MappingProxyType

from agvm_jax.data.formats.shapes_drawing import CLASS_NAMES
from benchmarks.on_gpu.lines import Lines, arguments
from benchmarks.paper.cells import Runs, failed
from benchmarks.paper.grids import Sweep
from benchmarks.paper.methods import METHODS
from benchmarks.paper.scales import TINY
from benchmarks.paper.work import work

BATCHES = (512, 1024)
NAMES = ("adamw", "agvm_adamw", "agvm_adamw_norms")
PLACES = (-2, -1, 0, 1)
SEEDS = 3
GPU = dataclasses.replace(
    TINY,
    name="gpu",
    image_size=64,
    max_objects=3,
    class_names=CLASS_NAMES,
    train_images=524_288,
    images_seen=524_288,
    micro_batches=MappingProxyType({512: 64, 1024: 128}),
    overrides=MappingProxyType(
        {
            **TINY.overrides,
            "model.width": 0.5,
            "model.fpn_channels": 64,
            "model.anchors.sizes": (16.0, 24.0, 32.0, 48.0, 64.0),
            "data.max_boxes": 3,
        }
    ),
)
DRY = dataclasses.replace(
    TINY,
    name="dry",
    train_images=2_048,
    val_images=20,
    images_seen=2_048,
    micro_batches=MappingProxyType({512: 256, 1024: 512}),
    overrides=MappingProxyType({**TINY.overrides, "model.width": 0.125}),
)


def wanted(runs: Runs, lines: Lines, dry_run: bool = False):
    """Return the cells that there is time for: sweeps first, then the seeds."""
    if lines.left() < (5 if dry_run else 60):
        return []
    sweeps = [
        Sweep(METHODS[name], batch, places=PLACES)
        for batch in BATCHES
        for name in NAMES
    ]
    if dry_run:
        return [sweep.cell(0) for sweep in sweeps[:2]]
    cells = [cell for sweep in sweeps for cell in sweep.rates(runs)]
    for sweep in sweeps:
        cells += sweep.seeds(runs)[:SEEDS]
    return list(dict.fromkeys(cells))


def main() -> None:
    args = arguments(__doc__, earlier=True)
    lines = Lines("training", args)
    scale = DRY if args.dry_run else GPU
    folder = args.out / scale.name
    if args.earlier and (args.earlier / scale.name).exists():
        shutil.copytree(args.earlier / scale.name, folder, dirs_exist_ok=True)
    runs = Runs(folder)
    # The images stay behind: they would be most of what has to be carried back.
    images = args.out.parent / f"{args.out.name}_images"

    def left(runs: Runs):
        return wanted(runs, lines, args.dry_run)

    work(left, runs, scale, METHODS, images)
    for cell, result in runs.all().items():
        lines.add(
            cell.name,
            ap=0.0 if failed(result) else 100 * result["AP"],
            failed=failed(result),
            loss=result["loss"],
            ms_a_step=1000 * result["seconds_a_step"],
        )
    lines.finish()


if __name__ == "__main__":
    main()
