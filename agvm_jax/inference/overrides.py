"""``--data.root=FOLDER`` and the like: keys of a config that a command changes."""

import ast
import difflib
from collections.abc import Sequence
from typing import Any


def check_overrides(arguments: Sequence[str], section: str) -> None:
    """Checks that the keys of a command line are of one section.

    Raises:
      ValueError: one is of another, which would change nothing.
    """
    for argument in arguments:
        name = argument.lstrip("-").removeprefix("config.")
        if argument.startswith("--") and "." in name.partition("=")[0]:
            if not name.startswith(f"{section}."):
                raise ValueError(
                    f"{argument}: only keys of {section} change what a model predicts,"
                    " unless there is a --config."
                )


def with_overrides(config: Any, arguments: Sequence[str]) -> Any:
    """Returns a config with the keys of a command line.

    Args:
      config: a ConfigDict, changed in place.
      arguments: "--data.root=FOLDER", also with "config." in front.

    Raises:
      ValueError: an unknown key, or a value of another kind than the key's.
    """
    for argument in arguments:
        name, equals, text = argument.partition("=")
        name = name.lstrip("-").removeprefix("config.")
        if not argument.startswith("--") or not equals or "." not in name:
            raise ValueError(
                f"{argument!r} is not known: see --help. Keys of the config are set"
                " with --SECTION.KEY=VALUE, such as --data.root=FOLDER."
            )
        *sections, key = name.split(".")
        place = config
        for section in sections:
            place = place[section] if section in place else {}
        if key not in place:
            known = _keys(config)
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean --{near[0]}?" if near else ""
            raise ValueError(f"{argument}: the config has no key {name}{hint}")
        place[key] = _value(name, text, place[key])
    return config


def _value(name: str, text: str, former: Any) -> Any:
    if isinstance(former, str):
        return text
    if isinstance(former, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(f"--{name}={text}: it is True or False.")
        return text.lower() == "true"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = None
    if isinstance(former, tuple | list):
        value = (value,) if isinstance(value, int | float) else value
        if isinstance(value, tuple | list):
            return tuple(value)
    elif isinstance(former, int) and isinstance(value, int):
        return value
    elif isinstance(former, float) and isinstance(value, int | float):
        return float(value)
    raise ValueError(
        f"--{name}={text}: it is {type(former).__name__} in the config, such as"
        f" {former!r}."
    )


def _keys(config: Any, prefix: str = "") -> list[str]:
    keys = []
    for key, value in config.items():
        if hasattr(value, "items"):
            keys += _keys(value, f"{prefix}{key}.")
        else:
            keys.append(prefix + key)
    return keys
