"""An advisory lock on a file, so that two processes do not do the same work."""

import contextlib
import logging
import pathlib
from collections.abc import Iterator

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

log = logging.getLogger(__name__)

HAS_LOCKS = fcntl is not None


@contextlib.contextmanager
def locked(path: pathlib.Path, work: str) -> Iterator[None]:
    """Hold the lock on `path`; it ends with the process at the latest.

    Where the system has no such locks, nothing is held.

    Args:
      path: a file, made where it is absent.
      work: what the holder does, for those who wait: "preparing X".
    """
    if fcntl is None:
        yield
        return
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("Another process is %s; waiting for it.", work)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
