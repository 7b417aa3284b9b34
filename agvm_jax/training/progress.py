"""The progress bar and the clock of a run."""

import contextlib
import time
from collections.abc import Iterator

from tqdm import tqdm


class Progress:
    """A bar with loss, the last evaluation, images a second and the time left.

    Args:
      total: steps in the run.
      start: steps taken before this sitting.
      active: whether to show anything.
    """

    def __init__(self, total: int, start: int, active: bool):
        self._bar = tqdm(
            total=total,
            initial=start,
            unit="step",
            desc="compiling",
            disable=not active,
            dynamic_ncols=True,
            mininterval=0.5,
        )
        self._shown: dict[str, str] = {}
        self._refreshed = 0.0

    def step(self) -> None:
        """Moves on by one step; the first has compiled the program."""
        self._bar.set_description("training", refresh=False)
        self._bar.update()

    def part(self, done: int, of: int) -> None:
        """Shows how far a long step is: micro-batches done of those it has."""
        self._shown["micro-batch"] = f"{done}/{of}"
        self._bar.set_postfix(self._shown, refresh=False)
        now = time.perf_counter()
        if now - self._refreshed > 0.5:
            self._refreshed = now
            self._bar.refresh()

    def show(self, **values: float) -> None:
        """Shows numbers beside the bar; the ones shown before stay."""
        for name, value in values.items():
            pattern = "{:.0f}" if name == "images/s" else "{:.3f}"
            self._shown[name] = pattern.format(value)
        self._bar.set_postfix(self._shown)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        self._bar.close()


class Clock:
    """Measures images per second; evaluation and saving can be left out.

    Args:
      batch_size: images a step.
    """

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self._steps = 0
        self._since = time.perf_counter()

    def step(self) -> None:
        """Counts a step."""
        self._steps += 1

    def images_per_second(self) -> float:
        """Returns the rate since the last call."""
        now = time.perf_counter()
        rate = self._steps * self._batch_size / max(now - self._since, 1e-9)
        self._steps, self._since = 0, now
        return rate

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves what happens inside out of the rate."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._since += time.perf_counter() - start
