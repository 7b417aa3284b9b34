"""Runs and reports the paper's comparisons at a scale that one machine has.

    python -m benchmarks.paper --table core --parallel 2        # train what is missing
    python -m benchmarks.paper --table core --list              # what there is to do
    python -m benchmarks.paper --report                         # CSV, tables, pictures

The same command again goes on where it stopped; it may be stopped at any time.
"""

import argparse
import os
import sys
from pathlib import Path

from benchmarks.paper import work
from benchmarks.paper.cells import Runs, failed
from benchmarks.paper.grids import GRIDS
from benchmarks.paper.methods import METHODS
from benchmarks.paper.scales import TINY


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--table", choices=GRIDS, default="core")
    parser.add_argument("--runs", type=Path, default=Path("runs/paper"))
    parser.add_argument("--parallel", type=int, default=1, help="processes")
    parser.add_argument("--limit", type=int, help="cells a process trains at most")
    parser.add_argument("--list", action="store_true", help="print cells, train none")
    args = parser.parse_args(arguments)
    runs = Runs(args.runs / TINY.name)
    if args.list:
        for cell in GRIDS[args.table](runs):
            result = runs.result(cell)
            state = "-" if result is None else "x" if failed(result) else "done"
            score = f"{100 * result['AP']:.1f}" if state == "done" else state
            print(f"{score:>5}  {cell.name}")
        return 0
    if args.parallel > 1:
        position = arguments.index("--parallel")
        rest = arguments[:position] + arguments[position + 2 :]
        return work.start_workers(args.parallel, rest)
    work.one_core()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(args.runs / "programs"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    from agvm_jax.training.host_memory import keep_freed_memory

    keep_freed_memory()
    images = args.runs / "images"
    done = work.work(GRIDS[args.table], runs, TINY, METHODS, images, args.limit)
    print(f"nothing is left to do for this process; it trained {done} cells")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
