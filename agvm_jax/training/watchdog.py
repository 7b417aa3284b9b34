"""Says which step and which process hangs, and where in the program.

A step that waits for another process looks like a slow one: nothing is printed, for
ever. A thread notices that nothing has ended for a while and tells it, with the stacks
of all threads of its process. All processes of a run that hangs tell theirs: the one
that is at an earlier step than the others, or elsewhere, is the one that they wait for.
"""

import faulthandler
import logging
import os
import sys
import threading
import time
from pathlib import Path

import jax

from agvm_jax.training.exit_code import ExitCode


class Watchdog:
    """A thread that complains when `begins` was not called for too long.

    It tells once of a thing that hangs, on stderr and in ``hang_process<i>.txt``.

    Args:
      folder: the run folder, for the stacks.
      seconds: how long a step, an evaluation or a checkpoint may take; 0: no watchdog.
      stop: whether the process then ends, with the exit code of a crash, so that a
        scheduler starts the run again from its last checkpoint.
      log: where it is told as well.
    """

    def __init__(
        self, folder: Path, seconds: float, stop: bool, log: logging.Logger
    ) -> None:
        self._path = folder / f"hang_process{jax.process_index()}.txt"
        self._seconds, self._stop, self._log = seconds, stop, log
        self._what, self._since, self._told = "the start", time.monotonic(), False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watch")
        if seconds > 0:
            self._thread.start()

    def begins(self, what: str) -> None:
        """Notes what begins now, such as "step 12"; what was before has ended."""
        self._what, self._since, self._told = what, time.monotonic(), False

    def close(self) -> None:
        """Ends the thread."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(min(self._seconds / 4, 10.0)):
            if time.monotonic() - self._since > self._seconds and not self._told:
                self._told = True
                self._tell()

    def _tell(self) -> None:
        sentence = (
            f"process {jax.process_index()} of {jax.process_count()}: {self._what} has"
            f" not ended in {self._seconds:g} seconds; where its threads stand is in"
            f" {self._path}. If other processes tell another step, they wait for the"
            " one that is behind."
        )
        if jax.process_index() == 0:  # the others' logs are silent
            self._log.error(sentence)
        else:
            print(sentence, file=sys.stderr, flush=True)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(sentence + "\n\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError:  # a disk that hangs too
            faulthandler.dump_traceback(sys.stderr, all_threads=True)
        if self._stop:
            os._exit(ExitCode.CRASHED)
