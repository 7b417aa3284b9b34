"""The CSV in docs/: every cell's numbers, one row a run, and back again.

Nested numbers become columns named "phi/backbone". A cell that the CSV holds counts as
done, so a grid can go on from a fresh checkout, without the old run folders.
"""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.paper.cells import Cell, failed

CELL = ("method", "batch", "rate", "seed", "variant")
WHOLE = ("batch", "seed", "steps", "skipped", "stopped_at", "cores", "spike_step")
TEXT = ("method", "variant", "started", "commit")
NESTED = ("phi", "mu_mean", "mu_max", "noise", "factors", "versions", "ap_at")
NESTED += ("spike_mu", "grad_end")
# Written for people, derived when read.
DERIVED = ("trained",)
# Columns stand in this order; the rest follow by name.
FIRST = (*CELL, *DERIVED, "AP", "AP50", "AP75", "loss", "steps", "skipped")
FIRST += ("stopped_at", "processor_a_step", "seconds_a_step", "compile_seconds")
FIRST += ("seconds", "started", "commit", "cores")


def write_csv(path: Path, results: Mapping[Cell, Mapping[str, Any]]) -> None:
    """Write results, whole or not at all; floats with six digits."""
    rows = [_row(cell, result) for cell, result in results.items()]
    names = set(CELL + DERIVED).union(*rows)
    columns = [name for name in FIRST if name in names]
    columns += sorted(names.difference(FIRST))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(path)


def read_csv(path: Path) -> dict[Cell, dict[str, Any]]:
    """Return the results of a CSV; none if there is no such file.

    Raises:
      ValueError: a column of the cell is missing, or a number is none.
    """
    if not path.exists():
        return {}
    found = {}
    with open(path, newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            try:
                cell, result = _read(row)
            except (KeyError, ValueError) as error:
                raise ValueError(
                    f"{path}, line {number}, cannot be read ({error!r}): restore the "
                    "file from git, or write it again with --report"
                ) from error
            found[cell] = result
    return found


def _row(cell: Cell, result: Mapping[str, Any]) -> dict[str, Any]:
    row = {
        "method": cell.method,
        "batch": cell.batch,
        "rate": f"{cell.rate:g}",
        "seed": cell.seed,
        "variant": json.dumps(dict(cell.variant)) if cell.variant else "",
        "trained": "no" if failed(result) else "yes",
    }
    for key, value in result.items():
        if isinstance(value, Mapping):
            row |= {f"{key}/{name}": _cell(entry) for name, entry in value.items()}
        elif key not in NESTED:
            row[key] = _cell(value)
    return row


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value


def _read(row: Mapping[str, str]) -> tuple[Cell, dict[str, Any]]:
    variant = json.loads(row["variant"] or "{}")
    cell = Cell(
        method=row["method"],
        batch=int(row["batch"]),
        rate=float(row["rate"]),
        seed=int(row["seed"]),
        variant=tuple(
            (key, tuple(value) if isinstance(value, list) else value)
            for key, value in variant.items()
        ),
    )
    result: dict[str, Any] = {name: {} for name in NESTED}
    for key, text in row.items():
        if key in CELL or key in DERIVED:
            continue
        section, _, name = key.partition("/")
        if name:
            if text:
                text = text if section == "versions" else float(text)
                result[section][name] = text
        else:
            result[key] = _value(key, text)
    return cell, result


def _value(key: str, text: str) -> Any:
    if not text:
        return None
    if key in TEXT:
        return text
    return int(text) if key in WHOLE else float(text)
