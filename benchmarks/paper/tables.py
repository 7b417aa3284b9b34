"""From results to Markdown: sweeps, seeds of the best, and paired differences."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks.paper.cells import Cell, Runs, failed
from benchmarks.paper.grids import SEEDS, Sweep
from benchmarks.paper.statistics import Difference, Spread, paired, spread

# ours, theirs: what the differences are taken of.
PAIRS = (
    ("agvm_adamw", "adamw"),
    ("agvm_adamw_norms", "adamw"),
    ("control", "adamw"),
    ("agvm_adamw", "control"),
    ("agvm_adamw_norms", "control"),
    ("agvm_adamw_norms", "agvm_adamw"),
    ("agvm_sgd", "sgd"),
    ("agvm_lamb", "lamb"),
    ("lamb", "adamw"),
)


class Line(NamedTuple):
    """What is known of one method at one batch.

    Attributes:
      sweep: what was swept.
      rates: (cell, result or None) of seed 0, by rate.
      best: the best cell of those that are done; None if none trained.
      seeds: seed -> result at the best rate, those that are done.
      settled: whether the sweep is complete, so that `best` stays.
    """

    sweep: Sweep
    rates: list[tuple[Cell, Any]]
    best: Cell | None
    seeds: dict[int, Any]
    settled: bool

    def scores(self) -> dict[int, float]:
        """Return seed -> AP at the best rate; a run that failed scores 0."""
        return {seed: result["AP"] or 0.0 for seed, result in self.seeds.items()}

    def losses(self) -> dict[int, float]:
        """Return seed -> loss at the end, of the runs that were not stopped."""
        return {
            seed: result["loss"]
            for seed, result in self.seeds.items()
            if result["AP"] is not None
        }

    def ap(self) -> Spread:
        return spread(list(self.scores().values()))


def line(sweep: Sweep, runs: Runs) -> Line:
    """Gather what is done of a sweep."""
    rates = [(cell, runs.result(cell)) for cell in sweep.rates(runs)]
    done = [(cell, result) for cell, result in rates if result is not None]
    trained = [(result["AP"], cell) for cell, result in done if not failed(result)]
    best = max(trained, key=lambda pair: pair[0])[1] if trained else None
    seeds = seeds_of(best, runs) if best else {}
    return Line(sweep, rates, best, seeds, len(done) == len(rates))


def line_at(sweep: Sweep, cell: Cell, runs: Runs) -> Line:
    """Gather the seeds of a variant at a rate that was chosen elsewhere."""
    seeds = seeds_of(cell, runs)
    return Line(sweep, [], cell, seeds, len(seeds) == SEEDS)


def seeds_of(cell: Cell, runs: Runs) -> dict[int, Any]:
    """Return seed -> result of the cells that differ from this one in their seed."""
    found = {seed: runs.result(cell.with_(seed=seed)) for seed in range(SEEDS)}
    return {seed: result for seed, result in found.items() if result is not None}


def sweep_table(lines: Sequence[Line]) -> str:
    """Return rates by methods, seed 0: AP, x for a failure, a dash for "not run"."""
    rows = []
    for entry in lines:
        if not any(result is not None for _, result in entry.rates):
            continue
        scores = []
        for cell, result in entry.rates:
            text = "-" if result is None else _score(result)
            bold = "**" if cell == entry.best else ""
            scores.append(f"{cell.rate:g}: {bold}{text}{bold}")
        rows.append((entry.sweep.title, ", ".join(scores)))
    return table(("method", "rate: AP, seed 0"), rows)


def seeds_table(lines: Sequence[Line]) -> str:
    """Return the best rate of each method with its seeds."""
    rows = []
    for entry in lines:
        if not entry.seeds:
            if entry.settled and entry.rates:
                rows.append((entry.sweep.title, "", "x", "", "", ""))
            continue
        results = list(entry.seeds.values())
        processor = min(result["processor_a_step"] for result in results)
        ap50 = spread([result["AP50"] or 0.0 for result in results])
        mark = "" if entry.settled else " (so far)"
        rows.append(
            (
                entry.sweep.title,
                f"{entry.best.rate:g}{mark}",
                entry.ap().words(100),
                ap50.words(100),
                spread(list(entry.losses().values())).words(1, 3),
                f"{1000 * processor:.0f}",
            )
        )
    header = "method", "best rate", "AP (seeds)", "AP50", "loss at the end"
    return table((*header, "processor ms a step"), rows)


def differences(lines: Sequence[Line]) -> list[tuple[Line, Line, Difference]]:
    """Return pairs that share seeds, with their difference of AP.

    A sweep that is not complete has no best rate yet and is left out.
    The pairs of `PAIRS`; of variants of one method, each with the first.
    """
    known = {entry.sweep.method.name: entry for entry in lines}
    if len(known) < len(lines):  # variants of one method: against the first
        pairs = [(entry, lines[0]) for entry in lines[1:]]
    else:
        pairs = [(known[a], known[b]) for a, b in PAIRS if a in known and b in known]
    found = []
    for ours, theirs in pairs:
        difference = paired(ours.scores(), theirs.scores())
        if difference and ours.settled and theirs.settled:
            found.append((ours, theirs, difference))
    return found


def difference_table(lines: Sequence[Line]) -> str:
    """Return paired differences over the seeds, AP and loss, with 95 % intervals."""
    rows = []
    for ours, theirs, difference in differences(lines):
        fresh = paired(_without_first(ours.scores()), _without_first(theirs.scores()))
        loss = paired(ours.losses(), theirs.losses())
        rows.append(
            (
                f"{ours.sweep.title} - {theirs.sweep.title}",
                difference.words(100),
                fresh.words(100) if fresh else "",
                loss.words(1, 3) if loss else "",
                difference.verdict if difference.count > 1 else "one seed only",
            )
        )
    header = "difference", "AP", "AP, seeds 1 to 4", "loss", "by AP"
    return table(header, rows)


def mu_table(lines: Sequence[Line]) -> str:
    """Return phi and mu of the best run of each method that measures, seed 0."""
    rows = []
    for entry in lines:
        result = entry.seeds.get(0)
        if not result or not result.get("phi"):
            continue
        noise = result.get("noise") or {}
        rows.append(
            (
                entry.sweep.title,
                numbers(result["phi"]),
                numbers(result.get("mu_mean") or result.get("factors")),
                numbers(result.get("mu_max")),
                numbers(noise, "{:.3g}"),
            )
        )
    header = "method", "phi", "mean mu", "largest mu", "noise scale, images"
    return table(header, rows)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; "" without rows."""
    if not rows:
        return ""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in lines)


def _without_first(scores: dict[int, float]) -> dict[int, float]:
    """Leave out the seed that chose the rate."""
    return {seed: score for seed, score in scores.items() if seed != 0}


def _score(result: Any) -> str:
    return "x" if failed(result) else f"{100 * result['AP']:.1f}"


def numbers(values: Any, form: str = "{:.2f}") -> str:
    """Return "backbone 0.87, head 0.21"."""
    if not values:
        return ""
    return ", ".join(
        f"{name} {form.format(value)}"
        for name, value in values.items()
        if value is not None
    )
