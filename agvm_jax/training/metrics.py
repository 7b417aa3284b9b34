"""What a run writes down: metrics.jsonl, log.txt, environment.json.

Only process 0 writes. Lines after the restored step are removed when a run resumes, so
that the file holds every step once.
"""

import contextlib
import datetime
import json
import logging
import math
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import jax

from agvm_jax.training.standing import best_of
from agvm_jax.training.storage import AppendFile
from agvm_jax.training.trackers import Tracker

PACKAGES = (
    "agvm-jax jax jaxlib flax optax orbax-checkpoint grain array-record"
    " tensorflow-datasets numpy hotcoco opencv-python-headless"
).split()


class MetricsWriter:
    """Appends scalars to metrics.jsonl and hands them to trackers.

    Args:
      folder: the run folder.
      start_step: steps that are kept from an earlier sitting; later lines are removed.
      trackers: who else is told; it closes them.
      active: False on all processes but the first; the writer then does nothing.
    """

    def __init__(
        self,
        folder: Path,
        *,
        start_step: int = 0,
        trackers: Sequence[Tracker] = (),
        active: bool = True,
    ):
        self._file, self._trackers = None, trackers
        if not active:
            return
        path = Path(folder) / "metrics.jsonl"
        _truncate(path, start_step)
        log = logging.getLogger("agvm_jax")
        self._file = AppendFile(path, log)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes the scalars of one step; what is not finite becomes null."""
        if self._file is None:
            return
        clean = {
            name: value if math.isfinite(value) else None
            for name, value in ((n, float(v)) for n, v in scalars.items())
        }
        line = {"step": step, "time": round(_now().timestamp(), 3), **clean}
        self._file.append(json.dumps(line).encode() + b"\n")
        known = {name: value for name, value in clean.items() if value is not None}
        for tracker in self._trackers:
            tracker.add(step, known)

    def close(self) -> None:
        """Closes all."""
        for file in (self._file, *self._trackers):
            if file is not None:
                file.close()


def read_metrics(path: Path) -> list[dict]:
    """Reads metrics.jsonl; a last line that was cut short by a kill is left out."""
    lines = []
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                continue
    return lines


def evaluated(folder: Path, metric: str, last_step: int) -> dict[int, float]:
    """Returns the metric of each evaluation up to a step; nan where it was not finite.

    Where the average of the weights was evaluated too, that of the better of the two.

    Args:
      folder: the run folder.
      metric: its name, as the evaluation gives it.
      last_step: later ones are left out.
    """
    found = {}
    for line in read_metrics(Path(folder) / "metrics.jsonl"):
        results = {
            name.removeprefix("eval/"): math.nan if value is None else value
            for name, value in line.items()
            if name.startswith("eval/")
        }
        if metric in results and line["step"] <= last_step:
            found[line["step"]] = best_of(results, metric)
    return found


def _truncate(path: Path, last_step: int) -> None:
    kept = [line for line in read_metrics(path) if line["step"] <= last_step]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(line) + "\n" for line in kept), "utf-8")
    partial.replace(path)


def write_environment(folder: Path) -> None:
    """Writes what the run was made with: versions, devices, commit, command."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    devices = jax.devices()
    environment = {
        "started": _now().isoformat(timespec="seconds"),
        "command": " ".join([os.path.basename(sys.executable), *sys.argv]),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "devices": {"count": len(devices), "kind": devices[0].device_kind},
        "processes": jax.process_count(),
        "commit": _commit(),
    }
    path = Path(folder) / "environment.json"
    path.write_text(json.dumps(environment, indent=2) + "\n", "utf-8")


def open_log(folder: Path, active: bool) -> logging.Logger:
    """Returns the run's logger: to the terminal, and to log.txt as well."""
    log = logging.getLogger("agvm_jax")
    close_log()
    log.propagate = False
    log.setLevel(logging.INFO if active else logging.ERROR)
    terminal = logging.StreamHandler(sys.stdout)
    terminal.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(terminal)
    if active:
        file = _LogFile(Path(folder) / "log.txt", encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        log.addHandler(file)
    return log


class _LogFile(logging.FileHandler):
    """A log whose disk may be full: the terminal has the same lines."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


def close_log() -> None:
    """Closes the handlers that `open_log` opened."""
    log = logging.getLogger("agvm_jax")
    for handler in list(log.handlers):
        log.removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()


def _now() -> datetime.datetime:
    return datetime.datetime.now().astimezone()


def _commit() -> str | None:
    """Returns the commit of the checkout, with "+changes" when it is not clean."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return commit + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def typical_noise_scales(folder: Path) -> dict[str, float]:
    """Returns the median over a run of the noise scale, per module and for "all".

    The last value alone would speak of the end only, where the rate has decayed and
    little but noise is left.

    Args:
      folder: the run folder.

    Returns:
      In images; inf where at least half of the time no signal stood out. {} when it
      was never measured.
    """
    values: dict[str, list[float]] = {}
    for line in read_metrics(Path(folder) / "metrics.jsonl"):
        for name, value in line.items():
            if name.startswith("noise_scale/"):
                # A scale without bound is written as null.
                values.setdefault(name.removeprefix("noise_scale/"), []).append(
                    math.inf if value is None else value
                )
    return {name: statistics.median_low(found) for name, found in values.items()}
