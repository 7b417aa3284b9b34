"""What is logged of a window of steps, written one window late.

The numbers of a step are on the device until it has taken that step. Asking for those
of the newest one makes the host wait, and then the device waits for the host: it is
drained. So when a window ends its numbers are only sent on their way, and written when
the next one ends, when they have long arrived. Whoever waits for the device anyway (to
evaluate, to save) writes all that is there with `write`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

Scalars = Mapping[str, Any]


class Windows:
    """The steps since the last line of the log, and the windows still to be written.

    Args:
      emit: ``(step, scalars)``, writes one line.
      begun: the steps of a window that a former sitting began, from `begun`.
    """

    def __init__(
        self,
        emit: Callable[[int, dict[str, float]], None],
        begun: Iterable[Scalars] = (),
    ):
        self._emit = emit
        self._begun: list[Scalars] = list(begun)
        self._ended: list[tuple[int, list[Scalars], Scalars]] = []

    def add(self, scalars: Scalars) -> None:
        """Takes a step's scalars, still on the device; "finite" must be among them."""
        self._begun.append(scalars)

    def end(self, step: int, more: Scalars) -> None:
        """Ends the window with this step, and writes the one before.

        Args:
          step: the last one of the window.
          more: what else its line says; numbers, or scalars on the device.
        """
        self.write()
        for leaf in jax.tree.leaves((self._begun, more)):
            if isinstance(leaf, jax.Array):
                leaf.copy_to_host_async()
        self._ended.append((step, self._begun, more))
        self._begun = []

    def write(self) -> None:
        """Writes every window that has ended; waits for the device."""
        while self._ended:
            step, window, more = self._ended.pop(0)
            window, more = jax.device_get((window, dict(more)))
            line = means(window) | {name: float(value) for name, value in more.items()}
            self._emit(step, line)

    def begun(self) -> list[dict[str, float]]:
        """Returns the steps of the window that has not ended; waits for the device.

        As numbers: with them in its checkpoint, a run that goes on writes the same line
        as one that was never stopped.
        """
        window = jax.device_get(self._begun)
        return [{name: float(value) for name, value in step.items()} for step in window]


def means(window: list[Scalars]) -> dict[str, float]:
    """Returns the mean of each metric over a window's finite steps.

    Of mu, which moves slowly and is what the next step uses, the last value. And
    "skipped_steps", the number of steps that were not finite.
    """
    used = [scalars for scalars in window if scalars["finite"]] or window[-1:]
    # phi is there only where a step measured it.
    names = dict.fromkeys(name for scalars in used for name in scalars)
    line = {
        name: float(np.mean([float(s[name]) for s in used if name in s]))
        for name in names
        if name not in ("finite", "skipped") and not name.startswith("mu/")
    }
    line |= {k: float(v) for k, v in window[-1].items() if k.startswith("mu/")}
    line["skipped_steps"] = float(sum(not scalars["finite"] for scalars in window))
    return line
