"""Looks after every step having been finite, without holding the device up.

A step whose loss or gradient is not finite has already been skipped on the device
(`training.step`). Here it is reported, with the modules and the images, and a bound on
such steps in a row is kept.
"""

import collections
import json
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np

from agvm_jax.training import mesh as mesh_lib
from agvm_jax.training.storage import AppendFile

# How many steps the host may run ahead of the device before it looks whether the oldest
# of them was finite. Two keep the device busy; more would only hold more batches.
STEPS_AHEAD = 2


class TrainingStopped(RuntimeError):
    """Too many steps in a row were not finite.

    Attributes:
      step: the last of them.
    """

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


class Watch:
    """Keeps the metrics of the last few steps, on the device, and checks them late.

    Args:
      max_skipped: how many steps in a row may be skipped.
      folder: the run folder; nonfinite.jsonl there gets a line for each such step,
        with all its image ids.
      log: where it is reported.
    """

    def __init__(self, max_skipped: int, folder: Path, log: logging.Logger):
        self._max_skipped = max_skipped
        self._path = folder / "nonfinite.jsonl"
        self._log = log
        self._unchecked = collections.deque()

    def add(self, step: int, scalars: dict[str, jax.Array], ids: np.ndarray) -> None:
        """Takes a step's metrics and this process's image ids; checks an older step.

        Raises:
          TrainingStopped: the bound is passed.
        """
        self._unchecked.append((step, scalars, ids))
        while len(self._unchecked) > STEPS_AHEAD:
            self._check()

    def check_all(self) -> None:
        """Checks every step so far; waits for the device.

        Raises:
          TrainingStopped: the bound is passed.
        """
        while self._unchecked:
            self._check()

    def _check(self) -> None:
        step, scalars, ids = self._unchecked.popleft()
        if scalars["finite"]:
            return
        scalars = jax.device_get(scalars)
        modules = [
            name.removeprefix("grad_norm/")
            for name, norm in scalars.items()
            if name.startswith("grad_norm/") and not np.isfinite(norm)
        ]
        # All processes see the same scalars, so all of them are here.
        ids = mesh_lib.rows_of_all(ids).tolist()
        shown = ", ".join(map(str, ids[:16]))
        if ids[16:]:
            shown += f" and {len(ids) - 16} more, in {self._path.name}"
        report = (
            f"step {step} was skipped: loss {scalars['loss']:.4g}, gradient not finite"
            f" in {', '.join(modules) or 'no module'}; image ids {shown}"
        )
        self._log.warning(report)
        self._write(step=step, loss=str(scalars["loss"]), modules=modules, images=ids)
        if scalars["skipped"] > self._max_skipped:
            raise TrainingStopped(
                f"{scalars['skipped']} steps in a row were not finite (the bound is"
                f" train.max_skipped_steps={self._max_skipped}). The last: {report}.",
                step,
            )

    def _write(self, **line: Any) -> None:
        if jax.process_index() == 0:
            file = AppendFile(self._path, self._log)
            file.append(json.dumps(line).encode() + b"\n")
            file.close()
