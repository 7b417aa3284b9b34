"""What the exit code of a run tells the one who started it.

A scheduler needs four answers apart: done; start the same command again; look at the
numbers; mend the command.
"""

import enum


class ExitCode(enum.IntEnum):
    """Exit codes of train.py.

    Attributes:
      FINISHED: the run is done.
      CRASHED: something went wrong that nobody foresaw; Python's own code for an
        exception. Also a last state that could not be stored.
      INPUT: something in the command, the data or the run folder was wrong, or does
        not fit into the device's memory; one sentence says what. The same command
        would end the same way.
      DIVERGED: too many steps in a row had a loss or gradient that was not finite.
      INTERRUPTED: a signal stopped the run and all is saved: the same command goes on.
        75 is EX_TEMPFAIL of sysexits.h, "try again".
    """

    FINISHED = 0
    CRASHED = 1
    INPUT = 2
    DIVERGED = 3
    INTERRUPTED = 75
