"""Time programs in turns, so that what else the machine does strikes them alike.

Each program is a process that warms up, prints a line, and from then on answers each
line that it reads with the seconds that one unit of its work took. The standard library
is all that is needed here: one side may not have jax, the other not torch.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable


class Worker:
    """The process that `command` starts, ready once this returns."""

    def __init__(self, command: list[str]):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._read()

    def run(self) -> float:
        """Let it do its work once; return the seconds that it reports."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def _read(self) -> float:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"this program stopped: {' '.join(self.process.args)}")
        return float(line)


def serve(step: Callable[[], None], steps: int) -> None:
    """Warm up, then answer each line of standard input with the seconds of a step.

    Args:
      step: does its work completely before it returns.
      steps: how many make one answer.
    """
    for _ in range(2):
        step()
    print(0.0, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(steps):
            step()
        print((time.perf_counter() - start) / steps, flush=True)


def summary(values: list[float], unit: str = "") -> str:
    """Return median and range in words."""
    return (
        f"{statistics.median(values):.2f}{unit}  "
        f"({min(values):.2f} to {max(values):.2f}, {len(values)} turns)"
    )
