"""Time programs in turns, so that what else the machine does strikes them alike.

Each program is a process that warms up, prints a line, and from then on answers each
line that it reads with the seconds that one unit of its work took, by the clock and by
its processors. On a machine that does nothing else the clock is what counts; on a busy
one the processors' time is steadier. The standard library is all that is needed here:
one side may not have jax, the other not torch.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple


class Seconds(NamedTuple):
    clock: float
    processor: float  # of all threads


class Worker:
    """The process that `command` starts, ready once this returns."""

    def __init__(self, command: list[str]):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._read()

    def run(self) -> Seconds:
        """Let it do its work once; return the seconds that it reports."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def _read(self) -> Seconds:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"this program stopped: {' '.join(self.process.args)}")
        return Seconds(*map(float, line.split()))


def serve(step: Callable[[], None], steps: int) -> None:
    """Warm up, then answer each line of standard input with the seconds of a step.

    Args:
      step: does its work completely before it returns.
      steps: how many make one answer.
    """
    for _ in range(2):
        step()
    print(0.0, 0.0, flush=True)
    for _ in sys.stdin:
        clock, processor = time.perf_counter(), time.process_time()
        for _ in range(steps):
            step()
        clock = time.perf_counter() - clock
        processor = time.process_time() - processor
        print(clock / steps, processor / steps, flush=True)


def summary(values: list[float], unit: str = "") -> str:
    """Return median and range in words."""
    return (
        f"{statistics.median(values):.2f}{unit}  "
        f"({min(values):.2f} to {max(values):.2f}, {len(values)} turns)"
    )
