"""The forms that a table can have: what it trains and how it is told.

Each function returns a `Table` for the methods and batches that it is given.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.paper.cells import Cell, Runs, failed
from benchmarks.paper.grids import (
    Sweep,
    at_best,
    ladder,
    sweep_then_seeds,
    sweeps,
    upwards,
)
from benchmarks.paper.methods import METHODS
from benchmarks.paper.tables import (
    Line,
    difference_table,
    line,
    line_at,
    mu_table,
    seeds_table,
    sweep_table,
    table,
)

LADDER = (1024, 2048, 4096)  # batches beyond 512 at which a method is tried


@dataclasses.dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
      title: what it answers.
      wanted: results so far -> cells, in the order in which they are trained.
      lines: results so far -> heading -> lines; for `report` and the figures.
      report: results so far -> Markdown; None: that of sweeps and seeds.
    """

    title: str
    wanted: Callable[[Runs], list[Cell]]
    lines: Callable[[Runs], dict[str, list[Line]]]
    report: Callable[[Runs], str] | None = None

    def text(self, runs: Runs) -> str:
        """Return the table in Markdown."""
        if self.report:
            return self.report(runs)
        parts = []
        for heading, lines in self.lines(runs).items():
            forms = sweep_table, seeds_table, difference_table, mu_table
            found = [form(lines) for form in forms]
            if any(found):
                parts += [f"### {heading}"] if heading else []
                parts += [part for part in found if part]
        return "\n\n".join(parts)


def comparison(title: str, groups: Mapping[int, Sequence[Sequence[str]]]) -> Table:
    """A sweep and seeds of each method at each batch, group after group."""

    def wanted(runs: Runs) -> list[Cell]:
        found = []
        for batch, parts in groups.items():
            for names in parts:
                found += sweep_then_seeds(runs, sweeps(names, batch))
        return found

    def lines(runs: Runs) -> dict[str, list[Line]]:
        return {
            f"Batch {batch}": [
                line(sweep, runs) for names in parts for sweep in sweeps(names, batch)
            ]
            for batch, parts in groups.items()
        }

    return Table(title, wanted, lines)


def pipelines(
    title: str,
    names: Sequence[str],
    batch: int,
    methods: Sequence[str] = ("adamw", "agvm_adamw"),
) -> Table:
    """Methods on other detectors and backbones: AdamW with and without AGVM."""

    def of(pipeline: str) -> list[Sweep]:
        return sweeps(methods, batch, (("run.pipeline", pipeline),))

    return Table(
        title,
        lambda runs: [
            cell for name in names for cell in sweep_then_seeds(runs, of(name))
        ],
        lambda runs: {name: [line(s, runs) for s in of(name)] for name in names},
    )


def ablation(title: str, variants: Sequence[tuple[tuple[str, Any], ...]]) -> Table:
    """Variants of AGVM + AdamW at batch 512, at the best rate of the default one."""
    base = Sweep(METHODS["agvm_adamw"], 512)
    varied = [Sweep(base.method, 512, variant) for variant in variants]

    def lines(runs: Runs) -> dict[str, list[Line]]:
        best = base.best(runs)
        if best is None:
            return {"": [line(base, runs)]}
        cells = [best.with_(variant=sweep.variant) for sweep in varied]
        pairs = zip(varied, cells, strict=True)
        return {
            "": [
                line(base, runs)._replace(rates=[]),
                *(line_at(sweep, cell, runs) for sweep, cell in pairs),
            ]
        }

    return Table(title, lambda runs: at_best(runs, base, varied), lines)


def climb(title: str, names: Sequence[str], batch: int) -> Table:
    """The largest rate at which each method still trains."""
    all_sweeps = sweeps(names, batch)

    def wanted(runs: Runs) -> list[Cell]:
        return [cell for sweep in all_sweeps for cell in upwards(runs, sweep)]

    def report(runs: Runs) -> str:
        rows = []
        for sweep in all_sweeps:
            done = [
                (cell.rate, failed(runs.result(cell)))
                for cell in upwards(runs, sweep)
                if runs.result(cell) is not None
            ]
            if not done:
                continue
            good = [rate for rate, lost in done if not lost]
            bad = [rate for rate, lost in done if lost and rate > max(good, default=0)]
            best = sweep.best(runs)
            rows.append(
                (
                    sweep.title,
                    f"{best.rate:g}" if best else "",
                    f"{max(good):g}" if good else "",
                    f"{min(bad):g}" if bad else "not reached yet",
                )
            )
        header = "method", "best rate", "largest rate that trains", "first that fails"
        return table(header, rows)

    return Table(title, wanted, lambda runs: {}, report)


def overhead(title: str, names: Sequence[str]) -> Table:
    """Processor time a step, and the largest batch that trains."""
    all_sweeps = sweeps(names, 512)

    def wanted(runs: Runs) -> list[Cell]:
        return [cell for sweep in all_sweeps for cell in ladder(runs, sweep, LADDER)]

    def report(runs: Runs) -> str:
        rows, plain = [], {}
        for sweep in all_sweeps:
            entry = line(sweep, runs)
            times = [r["processor_a_step"] for _, r in entry.rates if r is not None]
            if not times:
                continue
            time = min(times)
            base = sweep.method.name.removeprefix("agvm_").removesuffix("_norms")
            plain.setdefault(sweep.method.name, time)
            more = 100 * (time / plain[base] - 1) if base in plain else float("nan")
            scores = []
            for cell in ladder(runs, sweep, LADDER):
                result = runs.result(cell)
                if cell.batch != sweep.batch and result is not None:
                    lost = failed(result)
                    score = "x" if lost else f"{100 * result['AP']:.1f}"
                    scores.append(f"{cell.batch}: {score}")
            overhead = f"{more:+.1f} %" if base != sweep.method.name else ""
            top = f"512: {100 * entry.ap().mean:.1f}" if entry.seeds else ""
            rows.append(
                (
                    sweep.title,
                    f"{1000 * time:.0f}",
                    overhead,
                    ", ".join([top, *scores]).strip(", "),
                )
            )
        header = "method", "processor ms a step", "over its base", "batch: AP"
        return table(header, rows)

    return Table(title, wanted, lambda runs: {}, report)
