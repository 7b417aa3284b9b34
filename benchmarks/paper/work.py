"""Processes that take the cells of a grid, one after the other, until none is left.

Any number of them may work on one grid, started at any time: a cell is claimed by a
lock on its folder that ends with the process.
"""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paper.cells import Cell, Runs, failed
from benchmarks.paper.grids import factors_of
from benchmarks.paper.images import open_pool
from benchmarks.paper.methods import Method
from benchmarks.paper.scales import Scale

ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
LIBRARIES = ("jax", "flax", "optax", "hotcoco", "numpy")


def work(
    wanted: Callable[[Runs], list[Cell]],
    runs: Runs,
    scale: Scale,
    methods: Mapping[str, Method],
    images: Path,
    limit: int | None = None,
) -> int:
    """Train what a grid wants until nothing is left; return how many cells.

    Args:
      wanted: a grid of `grids.GRIDS`.
      runs: where results are found and written.
      scale: how large a run is.
      methods: name -> method.
      images: folder of the drawn images.
      limit: cells at most.
    """
    from benchmarks.paper.training import Trainer  # jax wakes here

    train, val = (open_pool(scale, split, images) for split in ("train", "val"))
    trainer = Trainer(scale, train, val)
    versions = environment()
    done = 0
    while limit is None or done < limit:
        if not _one(wanted, runs, trainer, methods, versions):
            break
        done += 1
    return done


def _one(wanted, runs, trainer, methods, versions) -> bool:
    """Train the first cell that is wanted and free; False if there is none."""
    for cell in wanted(runs):
        if runs.result(cell) is not None:
            continue
        with runs.claim(cell) as mine:
            if not mine:
                continue
            method = methods[cell.method]
            factors = factors_of(cell, runs) if method.control_of else None
            started = time.strftime("%Y-%m-%d %H:%M:%S")
            result, curve = trainer.run(cell, method, factors)
            changes = {**method.changes, "optim.lr": cell.rate, **cell.settings}
            config = trainer.scale.config(cell.batch, changes, cell.options)
            (runs.path(cell) / "config.json").write_text(config.to_json(indent=1))
            np.savez_compressed(runs.path(cell) / "curve.npz", **curve)
            result |= {"factors": factors, "started": started, **versions}
            runs.write(cell, result)
            _tell(cell, result, runs, wanted)
            return True
    return False


def _tell(cell: Cell, result: Mapping[str, Any], runs: Runs, wanted) -> None:
    cells = wanted(runs)
    left = sum(runs.result(other) is None for other in cells)
    score = "x" if failed(result) else f"{100 * result['AP']:.1f}"
    print(
        f"{time.strftime('%H:%M:%S')} {cell.name}: AP {score}, loss "
        f"{result['loss']:.3f}, {result['seconds']:.0f} s "
        f"({1000 * result['processor_a_step']:.0f} ms of processor a step); "
        f"{len(cells) - left} of {len(cells)} known cells done",
        flush=True,
    )


def environment() -> dict[str, Any]:
    """Return versions, machine and commit, for a result."""
    here = Path(__file__).parent
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=here,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "versions": {name: version(name) for name in LIBRARIES}
        | {"python": platform.python_version()},
        "commit": commit or "unknown",
        "cores": os.cpu_count(),
    }


def start_workers(count: int, arguments: list[str]) -> int:
    """Start this command `count` times side by side and wait; return the worst code.

    Each worker computes on one core.
    """
    children = [
        subprocess.Popen([sys.executable, "-m", "benchmarks.paper", *arguments])
        for _ in range(count)
    ]
    try:
        return max(abs(child.wait()) for child in children)
    except KeyboardInterrupt:
        for child in children:
            child.terminate()
        return 130


def one_core(programs: Path) -> None:
    """Make JAX compute on one core and keep compiled programs in a folder.

    Before the first computation.
    """
    import jax

    os.environ.setdefault("XLA_FLAGS", ONE_THREAD)  # read when the first array is made
    # Environment variables would come too late here: jax is imported.
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_compilation_cache_dir", str(programs.absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    from agvm_jax.training.host_memory import keep_freed_memory

    keep_freed_memory()
