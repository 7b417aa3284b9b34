"""Relative gradient variance of each module over training: the paper's figure 1, row 1.

    python -m benchmarks.misalignment                     # train what is missing, draw
    python -m benchmarks.misalignment --only semantic     # one task
    python -m benchmarks.misalignment --draw              # from the CSV alone

One detector for each of the paper's four tasks, on generated shapes of 64 px, at four
batch sizes and an equal number of images, by train.py with AdamW and without AGVM. phi
of a module is 1 - cos of the gradients of two halves of a batch, taken from the norms
of all micro-batches of 8 images; mu is what AGVM would aim at, sqrt(phi_backbone /
phi_module). Runs that are done are not run again. Writes docs/evidence/misalignment.csv
and two pictures in docs/images.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

ROOT = Path(__file__).parents[1]
TASKS = {
    "boxes": "faster_rcnn_shapes",
    "masks": "mask_rcnn_shapes",
    "semantic": "semantic_fpn_shapes",
    "panoptic": "panoptic_fpn_shapes",
}
BATCHES = (16, 64, 256, 512)
IMAGES = 8192  # that a run sees
WINDOWS = 16  # of equally many images; a curve's points
SETTINGS = {
    "image_size": "(64,64)",
    "data.shapes.image_size": "(64,64)",
    "data.shapes.train_images": 4096,
    "data.shapes.val_images": 8,
    "micro_batch_size": 8,
    "model.width": 0.125,
    "model.fpn_channels": 32,
    "model.anchors.sizes": "(8.0,16.0,24.0,32.0,48.0)",
    "model.rpn.pre_nms_top_k": "(50,50)",
    "model.rpn.post_nms_top_k": "(32,32)",
    "model.rpn.samples": 64,
    "model.box_head.samples": 16,
    "agvm.enabled": False,
    # The paper's rule beyond its reference batch: the root.
    "optim.lr": 1e-3,
    "optim.lr_rule": "sqrt",
    "optim.lr_batch": 64,
    "train.log_every_steps": 1,
    "train.eval_every_epochs": 1000.0,
    "train.checkpoint_every_epochs": 1000.0,
    "train.progress": False,
}
COLOURS = {"backbone": "k", "fpn": "C0", "rpn": "C2", "box_head": "C1"}
COLOURS |= {"mask_head": "C3", "semantic_head": "C4"}

Curves = dict[tuple[str, int], dict[str, np.ndarray]]  # module -> (WINDOWS,) phi


def train(task: str, batch: int, runs: Path) -> bool:
    """Train one run, or do nothing if it is done; return whether it is done."""
    folder = runs / task / f"batch{batch}"
    if (folder / "done").exists():
        return True
    steps = IMAGES // batch
    settings = {
        **SETTINGS,
        "batch_size": batch,
        "steps": steps,
        "optim.warmup_steps": max(steps // 8, 1),
        "data.cache_dir": runs / "data",
        "workdir": folder,
    }
    command = [sys.executable, "train.py", f"--config=configs/{TASKS[task]}.py"]
    command += [f"--config.{key}={value}" for key, value in settings.items()]
    # The program of a micro-batch is the same at every batch size.
    kept = {"JAX_COMPILATION_CACHE_DIR": str(runs / "programs")}
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "output.txt", "a") as output:
        code = subprocess.run(
            command, cwd=ROOT, env=kept | os.environ, stdout=output, stderr=output
        ).returncode
    print(f"{task} at batch {batch}: exit code {code}", flush=True)
    if code == 0:
        (folder / "done").touch()
    return code == 0


def read_run(folder: Path, batch: int) -> dict[str, np.ndarray]:
    """Return phi of each module, averaged over windows of equally many images."""
    found: dict[str, list[list[float]]] = defaultdict(
        lambda: [[] for _ in range(WINDOWS)]
    )
    with open(folder / "metrics.jsonl") as lines:
        for line in map(json.loads, lines):
            if "step" not in line:
                continue
            window = (line["step"] - 1) * batch * WINDOWS // IMAGES
            for key, value in line.items():
                if key.startswith("phi/") and value is not None:
                    found[key.removeprefix("phi/")][window].append(value)
    return {
        module: np.array([np.mean(values) if values else np.nan for values in windows])
        for module, windows in found.items()
    }


def write_csv(curves: Curves, path: Path) -> None:
    """Write a row for each window of each module."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("task", "batch", "module", "images", "phi"))
        for (task, batch), modules in curves.items():
            for module, values in modules.items():
                for window, value in enumerate(values):
                    images = (window + 1) * IMAGES // WINDOWS
                    rows.writerow((task, batch, module, images, f"{value:.4g}"))


def read_csv(path: Path) -> Curves:
    """Return what `write_csv` wrote; {} if there is no file."""
    if not path.exists():
        return {}
    found: dict[tuple[str, int], dict[str, list[float]]] = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            modules = found.setdefault((row["task"], int(row["batch"])), {})
            modules.setdefault(row["module"], []).append(float(row["phi"]))
    return {
        key: {module: np.array(values) for module, values in modules.items()}
        for key, modules in found.items()
    }


def modulation(modules: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return mu, sqrt(phi_backbone / phi_module); phi below 0.001 counts as that."""
    floor = {module: np.maximum(phi, 1e-3) for module, phi in modules.items()}
    return {m: np.sqrt(floor["backbone"] / phi) for m, phi in floor.items()}


def draw(curves: Curves, path: Path, ylabel: str) -> None:
    """Draw a row for each task and a column for each batch size."""
    tasks = [task for task in TASKS if any(key[0] == task for key in curves)]
    if not tasks:
        return
    figure, axes = plt.subplots(
        len(tasks),
        len(BATCHES),
        figsize=(12, 0.5 + 2.4 * len(tasks)),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    images = (np.arange(WINDOWS) + 0.5) * IMAGES / WINDOWS
    for row, task in zip(axes, tasks, strict=True):
        for axis, batch in zip(row, BATCHES, strict=True):
            for module, values in curves.get((task, batch), {}).items():
                axis.plot(images, values, color=COLOURS.get(module), label=module)
            axis.set_yscale("log")
            axis.grid(alpha=0.3)
            axis.set_title(f"{task}, batch {batch}", fontsize=9)
        row[0].set_ylabel(ylabel)
        if row[0].lines:
            row[0].legend(frameon=False, fontsize=7)
    for axis in axes[-1]:
        axis.set_xlabel("images seen")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def table(curves: Curves) -> str:
    """Return the mean of phi and the geometric mean of mu of each module."""
    modules = list(dict.fromkeys(m for found in curves.values() for m in found))
    lines = [
        f"| task | batch | {' | '.join(modules)} |",
        "|---" * (2 + len(modules)) + "|",
    ]
    for (task, batch), found in curves.items():
        mu = modulation(found)
        cells = [
            f"{np.nanmean(found[m]):.2g}, {np.exp(np.nanmean(np.log(mu[m]))):.2f}"
            if m in found
            else ""
            for m in modules
        ]
        lines.append(f"| {task} | {batch} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Train what is missing and draw; return 1 if a run failed, else 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--runs", type=Path, default=Path("runs/misalignment"))
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    parser.add_argument("--draw", action="store_true", help="train nothing")
    args = parser.parse_args()
    path = args.docs / "evidence" / "misalignment.csv"
    curves, failed = read_csv(path), 0
    runs = args.runs.absolute()  # train.py runs in the repository's folder
    for task in args.only:
        for batch in BATCHES:
            if (task, batch) in curves or args.draw:
                continue
            if train(task, batch, runs):
                curves[task, batch] = read_run(runs / task / f"batch{batch}", batch)
            else:
                failed = 1
    order = [(task, batch) for task in TASKS for batch in BATCHES]
    curves = {key: curves[key] for key in order if key in curves}
    write_csv(curves, path)
    draw(curves, args.docs / "images" / "misalignment_phi.png", "phi")
    mu = {key: modulation(modules) for key, modules in curves.items()}
    draw(mu, args.docs / "images" / "misalignment_mu.png", "mu")
    print(table(curves))
    return failed


if __name__ == "__main__":
    sys.exit(main())
