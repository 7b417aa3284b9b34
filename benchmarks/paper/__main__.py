"""Runs and reports the paper's comparisons at a scale that one machine has.

    python -m benchmarks.paper --table core --parallel 2     train what is missing
    python -m benchmarks.paper --table core --list           cells, scores so far
    python -m benchmarks.paper --report                      CSV, tables, figures
    python -m benchmarks.paper --optimizer my_module:make_tx your own beside AdamW
    python -m benchmarks.paper --table 2 --scale paper       commands for a pod

The same command again goes on where it stopped; it may be stopped at any time, and
started several times at once.
"""

import argparse
import os
import sys
from pathlib import Path

from benchmarks.paper import work
from benchmarks.paper.catalogue import REFUSED, TABLES, Table, own_table
from benchmarks.paper.cells import Runs, failed
from benchmarks.paper.full_scale import COMMANDS
from benchmarks.paper.methods import METHODS, own_method
from benchmarks.paper.report import CSV, write_report
from benchmarks.paper.results import read_csv
from benchmarks.paper.scales import TINY

DOCS = Path(__file__).parents[2] / "docs"


def main(arguments: list[str]) -> int:
    """Do what the command line asks; return the exit code, 2 for an input error."""
    args = parse(arguments)
    try:
        if args.scale == "paper":
            print_commands(args.table)
            return 0
        if args.report:
            for path in write_report(args.runs / TINY.name, args.docs):
                print(path)
            return 0
        methods = dict(METHODS)
        if args.optimizer:
            sys.path.insert(0, os.getcwd())
            method = own_method(args.optimizer)
            methods[method.name] = method
            table = own_table(method)
        else:
            table = find_table(args.table)
        runs = Runs(args.runs / TINY.name, read_csv(args.docs / CSV))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.list:
        print_cells(table, runs)
    elif args.parallel > 1:
        # Of two that are given, the last one counts.
        return work.start_workers(args.parallel, [*arguments, "--parallel=1"])
    else:
        work.one_core(args.runs / "programs")
        images = args.runs / "images"
        done = work.work(table.wanted, runs, TINY, methods, images, args.limit)
        print(f"{done} cells trained; nothing else is free for this process")
        if args.optimizer:
            print(table.text(runs))
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = ", ".join((*TABLES, *REFUSED))
    parser.add_argument("--table", default="core", help=f"one of {names}")
    parser.add_argument("--scale", choices=("tiny", "paper"), default="tiny")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/paper"), help="where run folders lie"
    )
    parser.add_argument("--parallel", type=int, default=1, help="processes")
    parser.add_argument("--limit", type=int, help="cells a process trains at most")
    parser.add_argument("--optimizer", help="MODULE:FUNCTION, schedule -> optimizer")
    parser.add_argument("--list", action="store_true", help="print cells, train none")
    parser.add_argument("--report", action="store_true", help="write docs, train none")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where reports go")
    return parser.parse_args(arguments)


def find_table(name: str) -> Table:
    """Return a table by its name.

    Raises:
      ValueError: there is none; the message says why, or which there are.
    """
    if name in REFUSED:
        raise ValueError(REFUSED[name])
    if name not in TABLES:
        raise ValueError(f"--table {name}: choose one of {', '.join(TABLES)}.")
    return TABLES[name]


def print_cells(table: Table, runs: Runs) -> None:
    cells = table.wanted(runs)
    for cell in cells:
        result = runs.result(cell)
        lost = result is not None and failed(result)
        score = "-" if result is None else "x" if lost else f"{100 * result['AP']:.1f}"
        print(f"{score:>5}  {cell.name}")
    left = sum(runs.result(cell) is None for cell in cells)
    print(f"{len(cells) - left} of {len(cells)} cells known so far are done")


def print_commands(name: str) -> None:
    """Print the commands of a table of the paper.

    Raises:
      ValueError: there are none.
    """
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        raise ValueError(REFUSED.get(name, f"--table {name}: at this scale {known}."))
    print("\n".join(COMMANDS[name]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
