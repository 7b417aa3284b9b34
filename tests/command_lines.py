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
        flags.FLAGS["compile_for"].unparse()  # or the next test would not train
