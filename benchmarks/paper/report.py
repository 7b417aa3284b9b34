"""One command from run folders to what is read: CSV, Markdown and figures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paper import figures, steps
from benchmarks.paper.catalogue import FIRST, SECOND, TABLES
from benchmarks.paper.cells import Cell, Runs, failed
from benchmarks.paper.curves import trouble
from benchmarks.paper.grids import sweeps
from benchmarks.paper.methods import METHODS
from benchmarks.paper.results import read_csv, write_csv
from benchmarks.paper.tables import line, numbers, table

CSV = Path("evidence/tiny.csv")
TEXT = Path("evidence/tables.md")
BATCHES = (512, 32)
SHOWN = (*FIRST, *SECOND, "agvm_lamb")  # in the pictures
OF_CORE = ("core", "stability", "1")
SPIKE = 0.2  # of the loss, which falls from 2.3 to 0.8
# The lowest rate at which a method failed that its base trains with.
COLLAPSE = tuple(Cell(name, 512, 0.00283, 0) for name in ("adamw", "agvm_adamw"))


def write_report(folder: Path, docs: Path) -> list[Path]:
    """Write the CSV of all runs, the tables and the figures; return their paths.

    Args:
      folder: the run folders of a scale; it may be empty: then all is made from the
        CSV, which keeps the results of runs whose folders are gone.
      docs: the folder that holds evidence/ and images/.
    """
    runs = Runs(folder, read_csv(docs / CSV))
    # An optimizer of one's own stays in its run folders.
    results = {
        cell: with_trouble(cell, result, runs)
        for cell, result in runs.all().items()
        if cell.method in METHODS
    }
    write_csv(docs / CSV, results)
    text = [
        "# Tables of the small runs",
        "Made by `python -m benchmarks.paper --report` from "
        f"[{CSV.name}]({CSV.name}), which has {len(results)} runs. The protocol and "
        "what is to be learned stand in [evidence.md](../evidence.md). AP in percent, "
        "mean ± standard deviation (seeds); differences with 95 % intervals (pairs); "
        "x: failed; a dash: not run yet.",
    ]
    core = set(TABLES["core"].wanted(runs))
    for name, entry in TABLES.items():
        cells = entry.wanted(runs)
        finished = [cell for cell in cells if runs.result(cell) is not None]
        done = len(finished)
        # What is made of the core's cells alone says nothing that the core does not.
        if not done or (name not in OF_CORE and core.issuperset(finished)):
            continue
        text.append(f"## {name}. {entry.title}")
        text.append(f"{done} of {len(cells)} cells known so far are done.")
        text.append(entry.text(runs))
    text += ["## Failures and spikes", trouble_table(results)]
    paths = [docs / CSV, docs / TEXT]
    paths[1].write_text("\n\n".join(part for part in text if part) + "\n")
    lines = {
        batch: [line(sweep, runs) for sweep in sweeps(SHOWN, batch)]
        for batch in BATCHES
    }
    drawn = {
        batch: entries
        for batch, entries in lines.items()
        if any(entry.seeds for entry in entries)
    }
    if drawn:
        for name, draw in (
            ("evidence_bars.png", figures.draw_bars),
            ("evidence_rates.png", figures.draw_sweeps),
            ("evidence_differences.png", figures.draw_differences),
        ):
            draw(drawn, docs / "images" / name)
            paths.append(docs / "images" / name)
    curves = {METHODS[c.method].title: read_curve(runs, c) for c in COLLAPSE}
    if all(curves.values()):
        paths.append(docs / "images" / "evidence_collapse.png")
        figures.draw_runs(curves, paths[-1])
    if any(runs.result(cell) for cell in steps.wanted(runs)):
        paths.append(docs / "images" / "evidence_steps.png")
        steps.draw(runs, paths[-1])
    return [path for path in paths if path.exists()]


def with_trouble(
    cell: Cell, result: Mapping[str, Any], runs: Runs
) -> Mapping[str, Any]:
    """Add what the curve in the run folder tells, if there is one."""
    curve = read_curve(runs, cell)
    return {**result, **trouble(curve)} if curve else result


def read_curve(runs: Runs, cell: Cell) -> dict[str, np.ndarray]:
    """Return the curve in a run folder, {} if there is none."""
    path = runs.path(cell) / "curve.npz"
    if not path.exists():
        return {}
    with np.load(path) as arrays:
        return dict(arrays)


def trouble_table(results: Mapping[Cell, Mapping[str, Any]]) -> str:
    """Return the runs that failed, or whose loss rose by more than `SPIKE`."""
    rows = []
    for cell, result in results.items():
        spike = result.get("spike")
        if not failed(result) and (spike is None or spike < SPIKE):
            continue
        stopped = result.get("stopped_at")
        ap = "x" if failed(result) else f"{100 * result['AP']:.1f}"
        if stopped is not None:
            ap += f", not finite, stopped at step {stopped}"
        rows.append(
            (
                cell.name,
                ap,
                "" if result["loss"] is None else f"{result['loss']:.2f}",
                "" if spike is None else f"{spike:.2f} at {result['spike_step']}",
                numbers(result.get("spike_mu")),
                numbers(result.get("grad_end")),
            )
        )
    if not rows:
        return "None so far."
    header = ("run", "AP", "loss at the end", "largest rise of the loss, at step")
    return table((*header, "mu there", "gradient's norm at the end / median"), rows)
