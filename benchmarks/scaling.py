"""Steps of the paper's detectors, compiled for pods: the table of docs/scaling.md.

    python -m benchmarks.scaling                       # goes on where it stopped
    python -m benchmarks.scaling --only mask_rcnn/v5e  # cells whose names begin so
    python -m benchmarks.scaling --print               # the table, from what is done

Each cell is one compilation, of a step that measures phi, by `ahead.compile_ahead`:
what `train.py --compile_for` does without the search for the largest batch. It is
written to docs/scaling.jsonl when it is done, and the table in docs/scaling.md follows.
Nothing runs; libtpu, and for GPUs jax[cuda12], have to be installed.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from agvm_jax.compiling.machine import find_machine  # noqa: E402
from agvm_jax.compiling.report import as_dict, does_not_fit  # noqa: E402
from agvm_jax.training.config_file import read_config  # noqa: E402
from ahead import compile_ahead  # noqa: E402

ROOT = Path(__file__).parents[1]
ROWS, PAGE = ROOT / "docs/scaling.jsonl", ROOT / "docs/scaling.md"
BEGIN, END = "<!-- benchmarks.scaling begins -->", "<!-- benchmarks.scaling ends -->"
GB = 1e9

# Name -> config, images a device, other keys. ImageNet weights are not read; they are
# named because stem and first stage then stay as they are.
START = {"train.init_from": "resnet50"}
DETECTORS = {
    "retinanet": ("retinanet_10k", 2, {"model.backbone": "resnet50", **START}),
    "faster_rcnn": ("faster_rcnn", 2, START),
    "mask_rcnn": ("mask_rcnn", 2, START),
    "semantic_fpn": ("semantic_fpn", 4, START),
    "panoptic_fpn": ("panoptic_fpn", 2, START),
    "uninet_1b": (
        "uninet_1b",
        2,
        {"agvm.estimator": "norms", "train.fsdp_size": 16},
    ),
}
MACHINES = {
    "v5e-256": "tpu:v5e:16x16",
    "v5p-512": "tpu:v5p:8x8x8",
    "768 A100": "cuda:a100:96x8",
}
LARGE = {
    "v5e-256": "tpu:v5e:16x16",
    "v5p-256": "tpu:v5p:8x8x4",
    "480 A100": "cuda:a100:60x8",
}
MODES = ("none", "optimizer", "full")


def cells() -> list[tuple[str, str, str]]:
    """Returns (detector, machine, mode) of every cell, the most wanted first."""
    *small, large = DETECTORS
    found = [(d, m, "none") for m in ("v5e-256", "v5p-512") for d in small]
    found += [(large, m, "full") for m in LARGE]
    found += [(d, "768 A100", "none") for d in small]
    found += [(d, m, mode) for mode in MODES[1:] for m in MACHINES for d in small]
    return found


def name_of(cell: tuple[str, str, str]) -> str:
    return "/".join(cell)


def compile_cell(cell: tuple[str, str, str]) -> dict:
    """Compiles one cell; returns its row."""
    detector, machine_name, mode = cell
    path, images, keys = DETECTORS[detector]
    machine = find_machine((MACHINES | LARGE)[machine_name])
    config = read_config(str(ROOT / f"configs/{path}.py"))
    batch = images * len(machine.devices)
    config.update_from_flattened_dict(
        {
            **keys,
            "batch_size": batch,
            "micro_batch_size": images,
            "train.shard": mode,
        }
    )
    if config.data.orientation_group:
        config.data.orientation_group = batch
    start = time.perf_counter()
    compiled = compile_ahead(
        config, machine, compare=False, search=False, say=lambda words: None
    )
    row = {"cell": name_of(cell), **as_dict(compiled)}
    if not compiled.fits:
        row["why"] = does_not_fit(compiled)
    return row | {"seconds_here": time.perf_counter() - start}


def done() -> dict[str, dict]:
    """Returns the rows that there are, by the names of their cells."""
    lines = ROWS.read_text("utf-8").splitlines() if ROWS.exists() else []
    return {row["cell"]: row for row in map(json.loads, lines)}


def table(rows: dict[str, dict]) -> str:
    """Returns the rows as a table, in the order of the cells."""
    lines = [
        "| detector, machine, `train.shard` | batch | memory | of | operations |"
        " bytes | sent | estimate: ms a step | images/s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    order = [
        (d, m, mode) for d in DETECTORS for m in {**MACHINES, **LARGE} for mode in MODES
    ]
    for cell in order:
        row = rows.get(name_of(cell))
        if row is None:
            continue
        detector, machine, mode = cell
        left = (
            f"| {detector.replace('_', ' ')}, {machine}, {mode} | {row['batch_size']} |"
        )
        room = f"{row['memory_for_a_step'] / GB:.0f} GB"
        if not row["fits"]:
            needed = row.get("needed") or row.get("held", 0) + row.get("temporary", 0)
            needs = f"{needed / GB:.1f} GB" if needed else "more"
            lines.append(f"{left} **{needs}: does not fit** | {room} | | | | | |")
            continue
        estimate, memory = row["estimate"], row["held"] + row["temporary"]
        sent = sum(moved for _, moved in row["sent"].values())
        lines.append(
            f"{left} {memory / GB:.1f} GB | {room} | {row['operations'] / 1e12:.2f} T |"
            f" {row['bytes'] / GB:.0f} GB | {sent / 1e6:.0f} MB |"
            f" {1e3 * estimate['step_seconds']:.1f} |"
            f" {estimate['images_a_second']:,.0f} |"
        )
    return "\n".join(lines)


def write_page(rows: dict[str, dict]) -> None:
    """Puts the table into its place in the page."""
    text = PAGE.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    if END not in text or BEGIN not in text:
        sys.exit(f"{PAGE} has no place for the table, between {BEGIN} and {END}")
    PAGE.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{after}", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[""], help="beginnings of names")
    parser.add_argument("--print", action="store_true", help="the table, and no more")
    args = parser.parse_args()
    if args.print:
        print(table(done()))
        return
    for cell in cells():
        name = name_of(cell)
        if name in done() or not any(name.startswith(only) for only in args.only):
            continue
        print(name, flush=True)
        try:
            row = compile_cell(cell)
        except ValueError as error:
            print(f"  {error}", flush=True)
            continue
        with ROWS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"  {row['seconds_here']:.0f} s", flush=True)
        write_page(done())


if __name__ == "__main__":
    main()
