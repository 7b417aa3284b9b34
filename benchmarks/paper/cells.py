"""A cell: one training run of a grid, its folder, and what came out of it.

A cell's folder follows from what it is, not from the table that asked for it, so tables
share their cells. `result.json` is written last: a folder with it is done.
"""

import dataclasses
import fcntl
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

RESULT = "result.json"
LEAST_AP = 0.01  # below it, a run did not train


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
      method: a key of `methods.METHODS`, or the name of an own one.
      batch: images a step.
      rate: the learning rate after warm-up.
      seed: of parameters and of the order of the images.
      variant: what else differs, as sorted pairs: config keys and their values, and
        options of the run itself, whose keys begin with "run."; () for nothing.
    """

    method: str
    batch: int
    rate: float
    seed: int
    variant: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """The run folder's path below the scale's.

        >>> Cell("adamw", 512, 0.004, 0, (("agvm.tau", 5),)).name
        'adamw/agvm.tau=5/batch512/rate0.004/seed0'
        """
        variant = [
            "+".join(f"{key}={_plain(value)}" for key, value in self.variant)
        ] * bool(self.variant)
        return "/".join(
            [
                self.method,
                *variant,
                f"batch{self.batch}",
                f"rate{self.rate:g}",
                f"seed{self.seed}",
            ]
        )

    @property
    def settings(self) -> dict[str, Any]:
        """The variant's config keys."""
        return {k: v for k, v in self.variant if not k.startswith("run.")}

    @property
    def options(self) -> dict[str, Any]:
        """The variant's options of the run.

        run.images, run.evaluations, run.target (AP at which it stops), run.pipeline.
        """
        return {k: v for k, v in self.variant if k.startswith("run.")}

    def with_(self, **changes: Any) -> "Cell":
        """Return this cell with other values."""
        return dataclasses.replace(self, **changes)


def _plain(value: Any) -> str:
    if isinstance(value, tuple | list):
        return "-".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def failed(result: Mapping[str, Any]) -> bool:
    """Whether a run did not train: stopped as not finite, or AP below 1 %.

    >>> failed({"AP": 0.2}), failed({"AP": 0.002}), failed({"AP": None})
    (False, True, True)
    """
    ap = result["AP"]
    return ap is None or not ap >= LEAST_AP


class Runs:
    """What is known of a scale's cells: its run folders, and results kept elsewhere.

    Args:
      folder: a cell's run folder is `folder`/<its name>.
      kept: results from the CSV in docs/, for cells that have no run folder here.
    """

    def __init__(
        self, folder: Path, kept: Mapping["Cell", Mapping[str, Any]] | None = None
    ):
        self.folder = folder
        self.kept = dict(kept or {})

    def path(self, cell: Cell) -> Path:
        return self.folder / cell.name

    def result(self, cell: Cell) -> dict[str, Any] | None:
        """Return what came out of a cell, None while it is not done.

        Raises:
          ValueError: the file is damaged.
        """
        path = self.path(cell) / RESULT
        if not path.exists():
            return self.kept.get(cell)
        try:
            return json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path} is damaged ({error}): delete it and run the cell again"
            ) from error

    def write(self, cell: Cell, result: Mapping[str, Any]) -> None:
        """Write a result, whole or not at all; what is not finite becomes null."""
        path = self.path(cell) / RESULT
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        text = json.dumps(_finite({"cell": dataclasses.asdict(cell), **result}))
        partial.write_text(text)
        os.replace(partial, path)

    def all(self) -> dict["Cell", Mapping[str, Any]]:
        """Return every result there is, in the order of the cells' names."""
        found = dict(self.kept)
        for path in self.folder.rglob(RESULT):
            written = json.loads(path.read_text())
            cell = written.pop("cell")
            variant = tuple((key, _tuple(value)) for key, value in cell["variant"])
            found[Cell(**cell | {"variant": variant})] = written
        return dict(sorted(found.items(), key=lambda pair: _place(pair[0])))

    @contextmanager
    def claim(self, cell: Cell) -> Iterator[bool]:
        """Give True if this process may train the cell now, False if another does.

        The claim ends with the process, however it ends.
        """
        folder = self.path(cell)
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "lock", "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
                return
            yield self.result(cell) is None


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value


def _place(cell: Cell) -> tuple:
    return cell.batch, cell.method, repr(cell.variant), cell.rate, cell.seed


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
