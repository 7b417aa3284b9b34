"""A profile of some steps, in the run folder, for TensorBoard, xprof or Perfetto."""

from pathlib import Path
from typing import Any

import jax


def check_profile(steps: Any) -> None:
    """Checks `train.profile_steps`.

    Raises:
      ValueError: it is no pair of numbers that count from 0.
    """
    if len(steps) != 2 or min(steps) < 0:
        raise ValueError(
            f"train.profile_steps={tuple(steps)}: it is (steps before, steps to"
            " profile), such as (50, 5), or (0, 0) for no profile."
        )


class ProfileWindow:
    """Records steps first + 1 to first + count; each process those of its own devices.

    Args:
      folder: the run folder; the profile lies in its ``profile/process<i>``.
      first: steps to be taken before. Those of a sitting's start compile programs.
      count: steps to record; 0: none.
    """

    def __init__(self, folder: Path, first: int, count: int):
        self.folder = folder / "profile" / f"process{jax.process_index()}"
        self._first, self._end = first, first + count
        self._running = False

    def before(self, step: int, state: Any) -> None:
        """Called with the steps taken so far, before another one."""
        if self._first <= step < self._end and not self._running:
            jax.block_until_ready(state)  # nothing of the steps before
            jax.profiler.start_trace(self.folder, create_perfetto_trace=True)
            self._running = True

    def after(self, step: int, state: Any) -> None:
        """Called with the steps taken so far, after one."""
        if step >= self._end:
            self.close(state)

    def close(self, state: Any = None) -> None:
        """Writes what was recorded, also of a window that a signal cut short."""
        if self._running:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self._running = False
