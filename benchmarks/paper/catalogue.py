"""The tables: which sweeps each one is made of, and how it is told.

Numbers are those of the paper's tables; "core", "stability", "baselines" and "steps"
are ours. Tables share cells: what one has trained, the next one finds.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from benchmarks.paper import steps
from benchmarks.paper.cells import Cell, Runs, failed
from benchmarks.paper.grids import (
    Sweep,
    at_best,
    ladder,
    sweep_then_seeds,
    sweeps,
    upwards,
)
from benchmarks.paper.methods import METHODS, Method
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

# The question itself first, each group with its seeds before the next one begins.
QUESTION = (("adamw", "agvm_adamw"), ("agvm_adamw_norms", "control"))
FIRST = tuple(name for group in QUESTION for name in group)
SECOND = ("sgd", "agvm_sgd", "lamb")
LADDER = (1024, 2048, 4096)


@dataclasses.dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
      title: what it answers.
      wanted: results so far -> cells, in the order in which they are trained.
      lines: results so far -> heading -> lines; for `report` and the pictures.
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
            parts += [f"### {heading}"] if heading else []
            if any(entry.rates for entry in lines):
                parts.append(sweep_table(lines))
            parts += [seeds_table(lines), difference_table(lines), mu_table(lines)]
        return "\n\n".join(parts)


def _comparison(title: str, groups: Mapping[int, Sequence[Sequence[str]]]) -> Table:
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


def _pipelines(title: str, pipelines: Sequence[str], batch: int) -> Table:
    """AdamW with and without AGVM, on other detectors and backbones."""

    def pair(pipeline: str) -> list[Sweep]:
        names = "adamw", "agvm_adamw"
        return sweeps(names, batch, (("run.pipeline", pipeline),))

    return Table(
        title,
        lambda runs: [
            cell for name in pipelines for cell in sweep_then_seeds(runs, pair(name))
        ],
        lambda runs: {name: [line(s, runs) for s in pair(name)] for name in pipelines},
    )


def _ablation(title: str, variants: Sequence[tuple[tuple[str, Any], ...]]) -> Table:
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


def _climb(title: str, names: Sequence[str], batch: int) -> Table:
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


def _overhead(title: str, names: Sequence[str]) -> Table:
    """Processor time a step, and the largest batch that trains."""
    all_sweeps = sweeps(names, 512)

    def wanted(runs: Runs) -> list[Cell]:
        return [cell for sweep in all_sweeps for cell in ladder(runs, sweep, LADDER)]

    def report(runs: Runs) -> str:
        rows, plain = [], {}
        for sweep in all_sweeps:
            entry = line(sweep, runs)
            times = [r["processor_a_step"] for _, r in entry.rates if r is not None]
            time = min(times) if times else float("nan")
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


def _tau(tau: int, alpha: float, **more: Any) -> tuple[tuple[str, Any], ...]:
    pairs = {"agvm.tau": tau, "agvm.alpha": alpha, **more}
    return tuple(sorted(pairs.items()))


# No bound that a ratio of two phi could reach.
NO_CLIP = {"agvm.clip": (0.0, 1e9)}
TABLES: Mapping[str, Table] = MappingProxyType(
    {
        "core": _comparison(
            "Does AGVM help, and does measuring matter?",
            {512: (*QUESTION, SECOND), 32: (*QUESTION, SECOND)},
        ),
        "stability": _climb(
            "The largest rate at which each method still trains, batch 512",
            (*FIRST, *SECOND, "agvm_lamb"),
            512,
        ),
        "1": _overhead(
            "Overhead of a step, and the largest batch that trains",
            (
                *("sgd", "agvm_sgd", "adamw", "agvm_adamw", "agvm_adamw_norms"),
                *("lamb", "agvm_lamb", "lars", "pmd_lamb", "sam"),
            ),
        ),
        "2": _comparison(
            "SGD's baselines over batches",
            {batch: (("sgd", "sam", "agvm_sgd"),) for batch in (32, 512, 2048)},
        ),
        "3": _comparison(
            "LAMB and PMD-LAMB beside AGVM + AdamW",
            {
                batch: (("adamw", "lamb", "pmd_lamb", "agvm_adamw"),)
                for batch in (256, 512, 1024)
            },
        ),
        "5": _comparison(
            "Batches that are extreme for the run: 64 and 32 steps in all",
            {
                batch: (("adamw", "lamb", "pmd_lamb", "agvm_adamw"),)
                for batch in (32, 2048, 4096)
            },
        ),
        "6": _comparison(
            "Optimizers with and without AGVM, batch 512",
            {512: (("sgd", "agvm_sgd", "adamw", "agvm_adamw", "lamb", "agvm_lamb"),)},
        ),
        "7": _ablation(
            "The anchor (the first line's is the backbone)",
            [(("agvm.anchor", name),) for name in ("fpn", "head")],
        ),
        "9": _ablation(
            "tau and alpha (the first line's: 1 and 0.97)",
            [
                _tau(1, 0.95),
                _tau(2, 0.97),
                _tau(5, 0.97),
                _tau(10, 0.97),
                _tau(10, 0.0),
                _tau(1, 0.0),
                _tau(1, 0.0, **NO_CLIP),
                _tau(10, 0.0, **NO_CLIP),
            ],
        ),
        "baselines": _comparison(
            "Other large-batch methods",
            {512: (("muon", "lars", "sam", "pmd_lamb", "agvm_lamb"),)},
        ),
        "pipelines": _pipelines(
            "Other detectors and backbones, batch 512", ("faster_rcnn", "swin"), 512
        ),
        "steps": Table(
            "Steps to a target against the batch",
            steps.wanted,
            lambda runs: {},
            steps.report,
        ),
    }
)


def own_table(method: Method) -> Table:
    """Return the comparison of an own optimizer with AdamW, batch 512."""
    pair = [Sweep(METHODS["adamw"], 512), Sweep(method, 512)]
    return Table(
        f"{method.title} beside AdamW, batch 512",
        lambda runs: sweep_then_seeds(runs, pair),
        lambda runs: {"Batch 512": [line(sweep, runs) for sweep in pair]},
    )


REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "4": "Table 4 is the wall time on up to 768 GPUs: it has no tiny form. "
        "--scale paper --table 4 names the commands.",
        "8": "Table 8 trains UniNet, which models/backbones does not have yet: there "
        "is nothing to run.",
    }
)
