"""Typed values from a JSON file that nobody vouches for: a value or one DataError."""

import json
import math
import pathlib
from typing import Any

from agvm_jax.data.annotations.errors import DataError

LARGEST = 2**63 - 1  # what an int64 column holds


def load_json(path: pathlib.Path) -> dict[str, Any]:
    """The file's top-level object."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(
            f"There is no annotation file {path}; put it there or change the"
            " annotation keys of config.data."
        ) from None
    except OSError as error:
        raise DataError(
            f"The annotation file {path} cannot be read: {error.strerror}."
        ) from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path} is not valid JSON: line {error.lineno}, column {error.colno}:"
            f" {error.msg}. Was it copied whole?"
        ) from None
    except (ValueError, RecursionError) as error:  # encoding, depth, digits of a number
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} cannot be read as JSON: {reason}.") from None
    if not isinstance(content, dict):
        raise DataError(
            f"{path} holds a JSON {_kind(content)}, not an object with annotations"
            " and categories: is it a COCO annotation file?"
        )
    return content


def object_list(content: dict[str, Any], key: str, path: pathlib.Path) -> list[dict]:
    """content[key], which must be a list of objects."""
    if key not in content:
        raise DataError(
            f"{path} has no {key!r}: is it the COCO annotation file that is meant?"
        )
    entries = content[key]
    if not isinstance(entries, list):
        raise DataError(f"{path}: {key!r} is a {_kind(entries)}, not a list.")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DataError(
                f"{path}: entry {number} of {key!r} is a {_kind(entry)}, not an object."
            )
    return entries


def whole_number(value: Any, what: str, path: pathlib.Path) -> int:
    """A whole number from 0 to 2**63 - 1; 3.0 counts, True does not."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or not 0 <= value <= LARGEST:
        raise DataError(
            f"{path}: {what} is {short(value)}, not a whole number from 0 up."
        )
    return value


def finite_number(value: Any, what: str, path: pathlib.Path) -> float:
    """A finite number."""
    if type(value) in (int, float) and -1e30 < value < 1e30 and math.isfinite(value):
        return float(value)
    raise DataError(f"{path}: {what} holds {short(value)}, not a finite number.")


def check_file_name(name: Any, image_id: int, path: pathlib.Path) -> None:
    """Refuse names that are no names, and names that leave the image folder."""
    if not isinstance(name, str) or not name or "\0" in name or not is_text(name):
        raise DataError(f"{path}: image {image_id} has no usable file_name ({name!r}).")
    # Both flavours on every system: a file that is harmless here may be opened
    # on Windows tomorrow.
    for flavour in (pathlib.PurePosixPath, pathlib.PureWindowsPath):
        pure = flavour(name)
        if pure.anchor or ".." in pure.parts:
            raise DataError(
                f"{path}: image {image_id} is called {name!r}, which leads out of the"
                " image folder; only names inside it are read."
            )


def is_text(name: str) -> bool:
    """Whether a string can be encoded: JSON may hold halves of surrogate pairs."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind(value: Any) -> str:
    """The JSON name of a value's type."""
    names = {dict: "object", list: "list", str: "string", bool: "boolean"}
    return names.get(type(value), "null" if value is None else "number")


def short(value: Any) -> str:
    """repr, at most 40 characters."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
