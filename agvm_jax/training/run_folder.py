"""The run folder: ``runs/<name>/<seed>/``, and the rule that one folder is one run.

Starting the same command again finds the folder and goes on. A folder whose config.json
says something else belongs to another run and is never touched.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

# Keys that may change between two sittings of one run: they say where, how often and
# how fast, but not what is computed. Micro-batching and the number of devices may
# change too; the batches stay the same ones.
FREE_KEYS = (
    "workdir",
    "micro_batch_size",
    "data.root",
    "data.cache_dir",
    "data.num_threads",
    "data.prefetch",
    "model.op_forms",
    "model.forward_mode",
    "eval.",
    "train.",
)
# These among them do say what is computed.
HELD_KEYS = (
    "train.init_from",
    "train.init_what",
    "train.freeze_at",
    "train.start_from",
    "train.skip_steps",
    "train.ema_decay",
)


# Keys that name a folder of a run, or one that it writes into.
PLACES = ("workdir", "data.cache_dir", "train.weights_dir", "train.start_from")


def check_places(config: Any) -> None:
    """Checks that a run works with folders of this machine.

    Args:
      config: the final config.

    Raises:
      ValueError: a key names a place of another kind, such as gs://BUCKET. `Path` would
        make a folder called "gs:" of it.
    """
    for key in PLACES:
        place = config
        for part in key.split("."):
            place = getattr(place, part)
        if scheme := re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", str(place)):
            raise ValueError(
                f"{key}={place}: places that begin with {scheme[0]} are not supported;"
                " name a folder of this machine, or one that is mounted here."
            )


def folder_of(config: Any) -> Path:
    """Returns the run folder of a config: ``workdir``, or runs/<name>/<seed>."""
    if config.workdir:
        return Path(config.workdir).expanduser()
    return Path("runs") / config.name / str(config.seed)


def open_run_folder(folder: Path, config: dict[str, Any]) -> Path:
    """Makes the run folder, or checks that it belongs to this config.

    Args:
      folder: where.
      config: the final config, JSON-ready.

    Raises:
      ValueError: the folder holds a run of another config; the message lists the keys.
        Or it cannot be written.
    """
    folder = Path(folder)
    path = folder / "config.json"
    config = json.loads(json.dumps(config))
    if path.exists():
        theirs = flat(json.loads(path.read_text("utf-8")))
        ours = flat(config)
        changed = [
            f"{key} is {theirs.get(key)!r} there and {ours.get(key)!r} here"
            for key in sorted(theirs.keys() | ours.keys())
            if not _same(theirs, ours, key)
            and (key in HELD_KEYS or not key.startswith(FREE_KEYS))
        ]
        if changed:
            # With a workdir the name decides nothing.
            remedy = "" if config.get("workdir") else "--config.name=NAME or "
            raise ValueError(
                f"the run folder {folder} belongs to another config:"
                f" {'; '.join(changed)}. Give this run its own folder with"
                f" {remedy}--config.workdir=FOLDER, or delete that one."
            )
    if jax.process_index() == 0:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(config, indent=2) + "\n", "utf-8")
            partial.replace(path)
        except OSError as error:
            raise ValueError(
                f"the run folder {folder} cannot be written: {error.strerror}. Name"
                " another place with --config.workdir=FOLDER."
            ) from error
    return folder


def _same(theirs: dict[str, Any], ours: dict[str, Any], key: str) -> bool:
    """Whether a key is the same; one that an older config lacks is "off" there."""
    if key not in theirs and not ours[key]:
        return True
    return theirs.get(key) == ours.get(key)


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested dicts as one, with dots in its keys."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found
