"""When a checkpoint is due: every so many steps, and every so many minutes.

Steps are the same for all processes and clocks are not. So where there are several,
the first one's clock counts: at the end of each window of the log a program tells all
devices what it says, and the answer is looked at when the next window ends. It has
arrived by then, so nobody waits for a device; a checkpoint comes up to two windows
late.
"""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from agvm_jax.training import mesh as mesh_lib


class SaveTimes:
    """Tells after each step whether a checkpoint is due.

    Args:
      mesh: all devices of the run.
      every_steps: saves after each multiple of it.
      every_minutes: and when as much time has passed since the last one; 0: never.
      alone: whether there is one process only.
      now: seconds, of any clock that goes forward.
    """

    def __init__(
        self,
        mesh: Mesh,
        every_steps: int,
        every_minutes: float,
        alone: bool,
        now: Callable[[], float] = time.monotonic,
    ):
        self._every_steps, self._seconds = every_steps, 60 * every_minutes
        self._alone, self._now, self._last = alone, now, now()
        self._mesh = mesh
        self._answer: jax.Array | None = None
        self._sum = jax.jit(jnp.sum, out_shardings=mesh_lib.replicated(mesh))

    def due(self, step: int, window_ends: bool) -> bool:
        """Whether to save now; all processes ask after every step and hear the same.

        Args:
          step: the one just taken.
          window_ends: whether a window of the log ends with it.
        """
        by_time = self._by_time(window_ends) if self._seconds > 0 else False
        return by_time or step % self._every_steps == 0

    def saved(self) -> None:
        """Begins to count anew."""
        self._last, self._answer = self._now(), None

    def _by_time(self, window_ends: bool) -> bool:
        passed = self._now() - self._last >= self._seconds
        if self._alone:
            return passed
        if not window_ends:
            return False
        former, self._answer = self._answer, self._ask(passed)
        return former is not None and bool(np.asarray(former.addressable_data(0)))

    def _ask(self, passed: bool) -> jax.Array:
        mine = np.zeros(len(self._mesh.local_devices), np.int32)
        mine[0] = passed and jax.process_index() == 0
        split = mesh_lib.split(self._mesh)
        answer = self._sum(jax.make_array_from_process_local_data(split, mine))
        if self._mesh.devices.flat[0].platform == "cpu":
            # Of a CPU's devices two programs at a time may wait for each other.
            return answer.block_until_ready()
        answer.copy_to_host_async()
        return answer
