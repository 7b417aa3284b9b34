"""SIGTERM and Ctrl-C as a wish to stop after the current step, on all processes alike.

A process that stops alone leaves the others waiting in a collective. So with several
processes `jax.distributed` spreads the notice: its own handler of SIGTERM tells the
coordinator, all processes learn of a step that none of them has passed, and each stops
there. Our handler must then not take the place of that one.
"""

import os
import signal
from typing import Any

import jax
from jax.experimental import multihost_utils


class StopSignal:
    """Whether a run is to stop; a context manager.

    One process: SIGTERM and Ctrl-C are remembered, and `reached` tells. Several: they
    stop at the same step, whichever of them got the signal. Ctrl-C takes the way of
    SIGTERM, because JAX listens to that one alone. A second Ctrl-C interrupts at once.

    Several processes that were not joined by `jax.distributed.initialize`, or with
    JAX's preemption service switched off, have no way to agree; signals then end a
    process as if this class were not there.
    """

    def __init__(self):
        self._wanted = False
        self._former: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        if jax.process_count() == 1:
            handlers = {signal.SIGTERM: self._remember, signal.SIGINT: self._remember}
        elif _can_agree():
            handlers = {signal.SIGINT: self._pass_on}
        else:
            handlers = {}
        for number, handler in handlers.items():
            # Only the main thread may set handlers; a run inside a thread (a test, a
            # notebook) goes without.
            try:
                self._former[number] = signal.signal(number, handler)
            except ValueError:
                pass
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: object) -> None:
        del frame
        if self._wanted and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._wanted = True

    def _pass_on(self, number: int, frame: object) -> None:
        self._remember(number, frame)
        os.kill(os.getpid(), signal.SIGTERM)

    @property
    def may_abandon_step(self) -> bool:
        """Whether a step may be left in the middle: several processes cannot agree."""
        return self._wanted and jax.process_count() == 1

    def reached(self, step: int) -> bool:
        """Returns whether the run is to stop after ``step``; asked after every step."""
        if jax.process_count() == 1:
            return self._wanted
        return _can_agree() and multihost_utils.reached_preemption_sync_point(step)


def _can_agree() -> bool:
    return jax.distributed.is_initialized() and jax.config.jax_enable_preemption_service
