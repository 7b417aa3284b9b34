"""The command line of train.py within a test's process."""

import contextlib
import sys
from collections.abc import Iterator
from unittest import mock

from absl import flags


@contextlib.contextmanager
def command_line(*arguments: str, config="configs/tiny.py") -> Iterator[list[str]]:
    """Make the process's arguments those of train.py, parsed by nobody yet."""
    flags.FLAGS.unparse_flags()
    for name in [n for n in flags.FLAGS if n.startswith("config.")]:
        delattr(flags.FLAGS, name)
    argv = ["train.py", f"--config={config}", *arguments]
    # ml_collections looks for overrides in sys.argv itself.
    try:
        with mock.patch.object(sys, "argv", argv):
            yield argv
    finally:
        if "compile_for" in flags.FLAGS:  # or the next test would not train
            flags.FLAGS["compile_for"].unparse()


def run(*arguments, config="configs/tiny.py"):
    """Runs train.main as the command line does; returns its exit code."""
    import train  # not at import: it wakes JAX

    with command_line(*arguments, config=config) as argv:
        return train.main(argv)
