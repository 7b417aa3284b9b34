"""One command from run folders to what is read: CSV, Markdown and pictures."""

from pathlib import Path

from benchmarks.paper import figures, steps
from benchmarks.paper.catalogue import FIRST, SECOND, TABLES
from benchmarks.paper.cells import Runs
from benchmarks.paper.grids import sweeps
from benchmarks.paper.results import read_csv, write_csv
from benchmarks.paper.tables import line

CSV = Path("evidence/tiny.csv")
TEXT = Path("evidence/tables.md")
BATCHES = (512, 32)


def write_report(folder: Path, docs: Path) -> list[Path]:
    """Write the CSV of all runs, the tables and the pictures; return their paths.

    Args:
      folder: the run folders of a scale; it may be empty: then all is made from the
        CSV, which keeps the results of runs whose folders are gone.
      docs: the folder that holds evidence/ and images/.
    """
    runs = Runs(folder, read_csv(docs / CSV))
    results = runs.all()
    write_csv(docs / CSV, results)
    text = [
        "# Tables of the small runs",
        "Made by `python -m benchmarks.paper --report` from "
        f"[{CSV.name}]({CSV.name}), which has {len(results)} runs. The protocol and "
        "what is to be learned stand in [evidence.md](../evidence.md). AP in percent, "
        "mean ± standard deviation (seeds); differences with 95 % intervals (pairs); "
        "x: failed; a dash: not run yet.",
    ]
    for name, entry in TABLES.items():
        cells = entry.wanted(runs)
        done = sum(runs.result(cell) is not None for cell in cells)
        if not done:
            continue
        text.append(f"## {name}. {entry.title}")
        text.append(f"{done} of {len(cells)} cells known so far are done.")
        text.append(entry.text(runs))
    paths = [docs / CSV, docs / TEXT]
    paths[1].write_text("\n\n".join(part for part in text if part) + "\n")
    lines = {
        batch: [line(sweep, runs) for sweep in sweeps((*FIRST, *SECOND), batch)]
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
    if any(runs.result(cell) for cell in steps.wanted(runs)):
        paths.append(docs / "images" / "evidence_steps.png")
        steps.draw(runs, paths[-1])
    return [path for path in paths if path.exists()]
