"""Looks after every step having been finite, without holding the device up.

A step whose loss or gradient is not finite has already been skipped on the device
(`training.step`). Here it is reported, with the modules and the images, and a bound on
such steps in a row is kept.
"""

import collections
import logging

import jax
import numpy as np

# How many steps the host may run ahead of the device before it looks whether the oldest
# of them was finite. Two keep the device busy; more would only hold more batches.
STEPS_AHEAD = 2


class TrainingStopped(RuntimeError):
    """Too many steps in a row were not finite."""


class Watch:
    """Keeps the metrics of the last few steps, on the device, and checks them late.

    Args:
      max_skipped: how many steps in a row may be skipped.
      log: where a skipped step is reported.
    """

    def __init__(self, max_skipped: int, log: logging.Logger):
        self._max_skipped = max_skipped
        self._log = log
        self._unchecked = collections.deque()

    def add(self, step: int, scalars: dict[str, jax.Array], ids: np.ndarray) -> None:
        """Takes a step's metrics and image ids, and checks an older step.

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
        shown = ", ".join(map(str, ids[:16])) + (", ..." if len(ids) > 16 else "")
        report = (
            f"step {step} was skipped: loss {scalars['loss']:.4g}, gradient not finite"
            f" in {', '.join(modules) or 'no module'}; image ids {shown}"
        )
        self._log.warning(report)
        if scalars["skipped"] > self._max_skipped:
            raise TrainingStopped(
                f"{scalars['skipped']} steps in a row were not finite (the bound is"
                f" train.max_skipped_steps={self._max_skipped}). The last: {report}."
                " Lower optim.lr, lengthen optim.warmup_epochs, or look at those"
                " images. The last checkpoint is from before and is good."
            )
