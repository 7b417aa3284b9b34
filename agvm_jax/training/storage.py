"""What a disk cannot take, in words."""

import errno
import logging
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NUMBER = re.compile(r"os_error_code='?(\d+)")  # in messages of tensorstore


class StorageError(RuntimeError):
    """The last state of a sitting could not be stored."""


def error_number(error: Exception) -> int | None:
    """Returns the operating system's number of an error, of TensorStore's too."""
    number = getattr(error, "errno", None)
    if number is None and (found := _NUMBER.search(str(error))):
        number = int(found[1])
    return number


def in_words(error: Exception, folder: Path, needed: int = 0) -> str:
    """Says why something could not be written under ``folder``, without a full stop.

    Args:
      error: what was raised.
      folder: an existing one.
      needed: bytes that were to be written, if that is known; a sentence about a full
        disk then says how many it lacks.
    """
    number = error_number(error)
    if number in _FULL or "no space left on device" in str(error).lower():
        lack = needed and too_little_space(folder, needed)
        return lack or f"the disk of {folder} is full; free some space there"
    if number is not None:
        return f"{os.strerror(number)} ({folder})"
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return f"{reason} ({folder})"


def too_little_space(folder: Path, needed: int) -> str:
    """Says that ``needed`` bytes do not fit on the disk of a folder; "" if they do."""
    free = shutil.disk_usage(folder).free
    missing = 1.05 * needed + 2**20 - free  # with what lies beside the data
    if missing <= 0:
        return ""
    return (
        f"it takes {_size(needed)} and the disk of {folder} has {_size(free)} left;"
        f" free another {_size(missing)} there"
    )


def _size(count: float) -> str:
    """Says a number of bytes in the unit that suits it."""
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


class AppendFile:
    """Appends to a file; what the disk does not take is kept and tried again.

    Args:
      path: the file; it is made where it is absent.
      log: where it is told, once, that the disk takes no more.
    """

    def __init__(self, path: Path, log: logging.Logger):
        self._path, self._log = path, log
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self._size = os.fstat(self._file).st_size
        self._waiting = b""
        self._failed = False

    def append(self, data: bytes) -> None:
        """Writes data, all of it or nothing, behind what is waiting."""
        self._waiting += data
        try:
            rest = self._waiting
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            os.ftruncate(self._file, self._size)  # nothing by halves
            if not self._failed:
                self._log.error(
                    "%s cannot be written: %s. Training goes on, and what is missing is"
                    " written as soon as it can be.",
                    self._path.name,
                    in_words(error, self._path.parent),
                )
            self._failed = True
        else:
            self._size += len(self._waiting)
            self._waiting, self._failed = b"", False

    def close(self) -> None:
        """Closes the file; what is still waiting is lost."""
        os.close(self._file)


def hush_libraries() -> None:
    """Keeps what Orbax and TensorStore log of errors that we tell to ourselves."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_not_theirs)
    if not isinstance(sys.unraisablehook, _Hook):
        sys.unraisablehook = _Hook(sys.unraisablehook)


class _Hook:
    """Python's way to tell of errors that nobody can catch, without those of Orbax.

    When one of the arrays cannot be read or written, Orbax ends its event loop; what
    is under way for the others then fails in TensorStore's threads, or when coroutines
    are collected, and would print a traceback each.
    """

    def __init__(self, former: Any):
        self._former = former

    def __call__(self, unraisable: Any) -> None:
        code = getattr(unraisable.object, "cr_code", None)
        theirs = code is not None and "orbax" in code.co_filename
        if theirs or str(unraisable.exc_value) == "Event loop is closed":
            return
        self._former(unraisable)


def _not_theirs(record: logging.LogRecord) -> bool:
    error = str(record.exc_info[1]) if record.exc_info else ""
    signs = "tensorstore", "OCDBT"
    return "orbax" not in record.pathname and not any(sign in error for sign in signs)
