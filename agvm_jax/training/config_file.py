"""Reads a config file: FILE, or FILE:VARIANT where it has variants."""

import inspect
import runpy
from pathlib import Path

from ml_collections import ConfigDict


def read_config(path: str | Path) -> ConfigDict:
    """Returns the config of a file such as configs/faster_rcnn.py.

    Args:
      path: of the file; what follows a colon is given to its get_config(), as
        ml_collections does on the command line: configs/faster_rcnn.py:3x_ms.

    Raises:
      ValueError: it cannot be read, is no config, or has no such variant.
    """
    file, colon, variant = str(path).partition(":")
    try:
        get_config = runpy.run_path(file)["get_config"]
    except OSError as error:
        raise ValueError(f"the config {file} cannot be read: {error}") from error
    except KeyError as error:
        raise ValueError(f"{file} has no get_config(), as a config has.") from error
    if colon and not inspect.signature(get_config).parameters:
        raise ValueError(f"{file} has no variants: leave ':{variant}' out.")
    return get_config(variant) if colon else get_config()
