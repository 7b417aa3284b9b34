"""Which cells a table needs, in the order in which something is learned earliest.

A grid is a function from the results so far to the cells that are wanted next, because
some cells follow from others: five seeds of the best rate, a sweep that goes on while
its best rate is the last, the control's factors.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from benchmarks.paper.cells import Cell, Runs, failed
from benchmarks.paper.methods import METHODS, Method, rate_at

SEEDS = 5
PLACES = (-2, -1, 0, 1, 2)
HIGHEST = 10  # doublings that the search for the first failure goes up to
FURTHEST = 5  # rates that a sweep is extended to, on either side of its middle
LOWEST = 10  # halvings of the middle, while no rate trains


@dataclasses.dataclass(frozen=True)
class Sweep:
    """One method at one batch: rates with seed 0, then seeds of the best.

    Attributes:
      method: what is swept.
      batch: images a step.
      variant: as in `Cell`.
      places: of the rates, as `rate_at` counts them.
    """

    method: Method
    batch: int
    variant: tuple[tuple[str, Any], ...] = ()
    places: tuple[int, ...] = PLACES

    @property
    def title(self) -> str:
        """The method's title, with what the variant changes."""
        cell = Cell("", 0, 0, 0, self.variant)
        words = [f"{key}={value}" for key, value in cell.settings.items()]
        if "run.pipeline" in cell.options:
            words.append(cell.options["run.pipeline"])
        return ", ".join([self.method.title, *words])

    def cell(self, place: float, seed: int = 0) -> Cell:
        rate = rate_at(self.method.family, self.batch, place)
        return Cell(self.method.name, self.batch, rate, seed, self.variant)

    def rates(self, runs: Runs) -> list[Cell]:
        """Return the cells of the sweep, with what its results so far add to it.

        While none of them trained, the next lower one is wanted; while the best of
        them stands at an end, the next rate beyond it;
        then the two beside the best, a root of two away: the sweep's own steps are
        wider than what methods differ by.
        """
        places = list(self.places)
        while True:
            best = self._best_place(runs, places)
            if best is None:
                if not self._all_failed(runs, places) or min(places) <= -LOWEST:
                    break
                places.insert(0, min(places) - 1)
                continue
            if best == max(places) and best < FURTHEST:
                places.append(best + 1)
            elif best == min(places) and best > -FURTHEST:
                places.insert(0, best - 1)
            else:
                places += [best - 0.5, best + 0.5]
                break
        return [self.cell(place) for place in sorted(places)]

    def best(self, runs: Runs) -> Cell | None:
        """Return the best cell of seed 0; None while the sweep is not done.

        Also None if no rate trained.
        """
        cells = self.rates(runs)
        results = [runs.result(cell) for cell in cells]
        if any(result is None for result in results):
            return None
        scored = [
            (result["AP"], cell)
            for cell, result in zip(cells, results, strict=True)
            if not failed(result)
        ]
        return max(scored, key=lambda pair: pair[0])[1] if scored else None

    def seeds(self, runs: Runs) -> list[Cell]:
        """Return the cells of all seeds at the best rate; () while it is not known."""
        best = self.best(runs)
        return [best.with_(seed=seed) for seed in range(SEEDS)] if best else []

    def _all_failed(self, runs: Runs, places: Sequence[int]) -> bool:
        results = [runs.result(self.cell(place)) for place in places]
        return all(result is not None and failed(result) for result in results)

    def _best_place(self, runs: Runs, places: Sequence[int]) -> int | None:
        scored = []
        for place in places:
            result = runs.result(self.cell(place))
            if result is None:
                return None
            if not failed(result):
                scored.append((result["AP"], place))
        return max(scored)[1] if scored else None


def factors_of(cell: Cell, runs: Runs) -> dict[str, float] | None:
    """Return the control's factors: the mean over steps of the measured mu.

    Of the run of seed 0 at the best rate of the method that it stands beside, at the
    same batch. None while that is not known.
    """
    source = METHODS[METHODS[cell.method].control_of]
    best = Sweep(source, cell.batch, cell.variant).best(runs)
    return runs.result(best)["mu_mean"] if best else None


def sweep_then_seeds(runs: Runs, sweeps: Sequence[Sweep]) -> list[Cell]:
    """Return what is wanted of several sweeps: all rates first, then the seeds.

    A control's cells are wanted once its factors are known.
    """
    ready = [
        sweep
        for sweep in sweeps
        if not sweep.method.control_of or factors_of(sweep.cell(0), runs)
    ]
    wanted = [cell for sweep in ready for cell in sweep.rates(runs)]
    wanted += [cell for sweep in ready for cell in sweep.seeds(runs)]
    return list(dict.fromkeys(wanted))


def sweeps(names: Sequence[str], batch: int, variant=()) -> list[Sweep]:
    """Return a sweep for each method's name."""
    return [Sweep(METHODS[name], batch, variant) for name in names]


def at_best(runs: Runs, base: Sweep, variants: Sequence[Sweep]) -> list[Cell]:
    """Return the base's sweep, then all seeds of each variant at the base's best rate.

    As the paper has its ablations: one rate for all.
    """
    best = base.best(runs)
    wanted = base.rates(runs)
    if best:
        for sweep in variants:
            cell = best.with_(method=sweep.method.name, variant=sweep.variant)
            wanted += [cell.with_(seed=seed) for seed in range(SEEDS)]
    return wanted


def upwards(runs: Runs, sweep: Sweep) -> list[Cell]:
    """Return a method's sweep and then every doubled rate up to the first failure."""
    wanted = sweep.rates(runs)
    best = sweep.best(runs)
    if best is None:
        return wanted
    for place in range(max(sweep.places) + 1, HIGHEST + 1):
        last = runs.result(max(wanted, key=lambda cell: cell.rate))
        if last is None or failed(last):
            break
        cell = sweep.cell(place)
        if cell not in wanted:
            wanted.append(cell)
    return wanted


def ladder(runs: Runs, base: Sweep, batches: Sequence[int]) -> list[Cell]:
    """Return the best rate of a method, times the square root of the batch, at others.

    Seed 0, in rising order up to the first batch that fails.
    """
    wanted = base.rates(runs)
    best = base.best(runs)
    if best is None:
        return wanted
    for batch in batches:
        rate = float(f"{best.rate * (batch / base.batch) ** 0.5:.3g}")
        cell = best.with_(batch=batch, rate=rate)
        wanted.append(cell)
        result = runs.result(cell)
        if result is None or failed(result):
            break
    return wanted
