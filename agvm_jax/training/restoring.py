"""From a checkpoint on disk to a state, checked; or to the one before it.

Three things can be wrong, and they are told apart. A checkpoint of another model or
optimizer is an error of the command. A damaged one is set aside and the one before is
used. Every other error (permissions, memory, a disk that does not answer, a fault of a
library) is neither and is raised as it is: the checkpoint may be good.

A step's folder holds ``state/``, the arrays as Orbax writes them, and
``integrity/record.json``, the record of `training.integrity`. Runs of before there were
records have ``default/`` alone.
"""

import dataclasses
import errno
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from agvm_jax.training import storage
from agvm_jax.training.integrity import (
    DamagedCheckpoint,
    check_record,
    leaves_by_path,
    path_name,
    verify,
)
from agvm_jax.training.state import TrainState

STATE, RECORD, RECORD_FILE = "state", "integrity", "record.json"
FORMER_STATE = "default"  # the arrays' item in runs without records
DAMAGED_FOLDER = "damaged_checkpoints"  # in the run folder

# What damage looks like: a file that is not there, or whose content cannot be parsed.
# All kinds that came up when files were cut, deleted and had bits turned, hundreds of
# times; NotImplementedError is Orbax's for a word in its JSON that it does not know.
_NOT_THERE = {errno.ENOENT, errno.EISDIR, errno.ENOTDIR}
_SIGNS = (
    FileNotFoundError,
    ValueError,
    LookupError,
    EOFError,
    AssertionError,
    NotImplementedError,
)
# TensorStore's errors are ValueErrors; they begin with a status.
_DAMAGED = "DATA_LOSS NOT_FOUND OUT_OF_RANGE INVALID_ARGUMENT FAILED_PRECONDITION"


class CheckpointMismatch(ValueError):
    """A checkpoint belongs to another model or optimizer."""


class NoGoodCheckpoint(ValueError):
    """A run has checkpoints and all of them are damaged."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """A state that came from disk.

    Attributes:
      state: with the shardings that were asked for.
      step: its step.
      record: what was saved beside it; {} in runs without records.
    """

    state: TrainState
    step: int
    record: Mapping[str, Any]


def saved_steps(folder: Path) -> list[int]:
    """Returns the steps of which the folder has a whole checkpoint, oldest first."""
    # One that is still being written has a longer name.
    names = [entry.name for entry in Path(folder).glob("*") if entry.is_dir()]
    return sorted(int(name) for name in names if name.isdigit())


def restore_newest(folder: Path, like: TrainState, log: logging.Logger) -> Restored:
    """Restores the newest checkpoint that is whole; damaged ones are set aside.

    Args:
      folder: a run's checkpoints; there is at least one.
      like: a state of this run's model and optimizer, or its shapes
        (`jax.ShapeDtypeStruct`), with the shardings wanted.
      log: where damage is told.

    Raises:
      CheckpointMismatch: it belongs to another model or optimizer.
      NoGoodCheckpoint: none can be restored; nothing is moved then.
    """
    damaged: list[tuple[int, DamagedCheckpoint]] = []
    for step in reversed(saved_steps(folder)):
        try:
            restored = restore(folder, step, like, log)
        except DamagedCheckpoint as error:
            damaged.append((step, error))
            continue
        # Only now: if none can be read, the fault may be the machine's.
        for bad, error in damaged:
            place = _set_aside(folder, bad)
            log.warning(
                "the checkpoint of step %d is damaged: %s. It lies in %s now, and that"
                " of step %d is used.",
                bad,
                error,
                place,
                step,
            )
        return restored
    step, error = damaged[0]
    raise NoGoodCheckpoint(
        f"none of the checkpoints in {folder} can be used; of the newest, of step"
        f" {step}: {error}. Nothing was moved. To begin anew, move that folder away; to"
        " begin from a checkpoint of another run, give this one a folder of its own"
        " (--config.name or --config.workdir) and --config.train.start_from=RUN_FOLDER."
    )


def restore(folder: Path, step: int, like: TrainState, log: logging.Logger) -> Restored:
    """Restores one checkpoint and compares its checksums.

    Arguments as in `restore_newest`. With several processes all of them call this, and
    if one of them finds damage, all do.

    Raises:
      CheckpointMismatch: it belongs to another model or optimizer; the message lists
        what differs.
      DamagedCheckpoint: it is not what was saved.
    """
    try:
        restored, error = _restore(Path(folder) / str(step), step, like), None
    except DamagedCheckpoint as found:
        restored, error = None, found
    if jax.process_count() > 1:
        bad = multihost_utils.process_allgather(np.array([error is not None]))
        if bad.any() and error is None:
            error = DamagedCheckpoint("another process could not restore it")
    if error:
        raise error
    if not restored.record:
        log.warning(
            "the checkpoint of step %d was saved without checksums, so it cannot be"
            " verified.",
            step,
        )
    return restored


def _restore(folder: Path, step: int, like: TrainState) -> Restored:
    record = _read_record(folder)
    # Orbax takes no relative path; sentences show the folder as it was given.
    arrays = (folder / (STATE if record else FORMER_STATE)).absolute()
    target = as_dict(like)
    with ocp.StandardCheckpointer() as checkpointer:
        if record:
            saved = {
                path: (dtype, tuple(shape))
                for path, (dtype, shape, _) in record["arrays"].items()
            }
        else:
            saved = _reading(
                lambda: _kinds(checkpointer.metadata(arrays).item_metadata), folder
            )
        _check_fit(saved, _kinds(target), folder)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, target)
        restored = _reading(lambda: checkpointer.restore(arrays, abstract), folder)
    state = TrainState(**_with_nodes_of(target, restored))
    if record:
        verify(as_dict(state), record)
    return Restored(state, step, record)


def _read_record(folder: Path) -> dict[str, Any]:
    """Returns a step's record, or {} if it was saved before there were records."""
    path = folder / RECORD / RECORD_FILE
    if not path.is_file():
        if (folder / FORMER_STATE / "_METADATA").is_file():
            return {}
        raise DamagedCheckpoint(f"{path.relative_to(folder)} is missing")
    try:
        record = json.loads(path.read_bytes())
    except ValueError as error:
        raise DamagedCheckpoint(f"{path.name} is no JSON any more") from error
    check_record(record)
    return record


def _reading(read: Any, folder: Path) -> Any:
    """Calls ``read``; of its errors, only those that tell of damage count as damage."""
    try:
        return read()
    except Exception as error:
        if not _tells_of_damage(error):
            error.add_note(f"This came while the checkpoint {folder} was being read.")
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DamagedCheckpoint(f"it cannot be read ({reason})") from error


def _tells_of_damage(error: Exception) -> bool:
    number = storage.error_number(error)
    if number is not None:
        return number in _NOT_THERE
    status = re.match(r"([A-Z_]{5,}):", str(error))
    if status and status[1] not in _DAMAGED.split():
        return False
    return isinstance(error, _SIGNS)


def _check_fit(saved: dict[str, tuple], wanted: dict[str, tuple], folder: Path) -> None:
    """Raises a CheckpointMismatch that lists the arrays that differ."""
    found = []
    for path in sorted(saved.keys() | wanted.keys()):
        if path not in saved:
            found.append(f"{path} is not in it")
        elif path not in wanted:
            found.append(f"{path} is only in it")
        elif saved[path] != wanted[path]:
            (dtype, shape), (our_dtype, our_shape) = saved[path], wanted[path]
            there, here = (
                (shape, our_shape) if shape != our_shape else (dtype, our_dtype)
            )
            found.append(f"{path} is {there} there and {here} here")
    if found:
        more = f"; and {len(found) - 10} more" if found[10:] else ""
        raise CheckpointMismatch(
            f"the checkpoint of step {folder.name} in {folder.parent} does not fit this"
            f" model and optimizer: {'; '.join(found[:10])}{more}. Use the config that"
            " it was made with, or give this run a folder of its own: another"
            " --config.name, or another --config.workdir where that is set."
        )


def _set_aside(folder: Path, step: int) -> Path:
    """Moves a damaged checkpoint out of the way; returns where it lies."""
    target = Path(folder).parent / DAMAGED_FOLDER
    names = [str(step), *(f"{step}-{number}" for number in range(2, 1000))]
    place = target / next(name for name in names if not (target / name).exists())
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"damaged checkpoint of step {step}")
    if jax.process_index() == 0:
        target.mkdir(exist_ok=True)
        (Path(folder) / str(step)).rename(place)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"set aside step {step}")
    return place


def as_dict(state: TrainState) -> dict[str, Any]:
    """Returns a state as a dict of its parts, which is how it is stored."""
    parts = {name: getattr(state, name) for name in TrainState.__dataclass_fields__}
    return {name: part for name, part in parts.items() if part is not None}


def _kinds(tree: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {
        path: (str(np.dtype(leaf.dtype)), tuple(leaf.shape))
        for path, leaf in leaves_by_path(tree).items()
    }


def _with_nodes_of(target: Any, restored: Any) -> Any:
    """Gives restored leaves the containers (tuples, NamedTuples) of ``target``."""
    leaves = leaves_by_path(restored)
    paths, treedef = jax.tree_util.tree_flatten_with_path(target)
    return jax.tree.unflatten(treedef, [leaves[path_name(path)] for path, _ in paths])
