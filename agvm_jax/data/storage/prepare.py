"""Prepare a split, once, as ArrayRecord files in TFDS layout: `open_split`.

The records are written by TFDS's SequentialWriter, not by `download_and_prepare`:
without TensorFlow the latter fails beyond 1 GB (it spills to disk through tf.io), and
with its order kept it would sort a whole split in memory. The result is an ordinary
TFDS folder all the same: `tfds.builder_from_directory(folder)` reads it.

What makes an interrupted or doubled preparation harmless: records go to a hidden
folder under a lock, whole shards found there are kept, and one rename at the very end
makes the set visible. A killed process releases its lock by dying.
"""

import contextlib
import dataclasses
import errno
import json
import logging
import os
import pathlib
import shutil
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tqdm import tqdm

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.annotations.objects import Annotations, pack
from agvm_jax.data.annotations.segments import NO_SEGMENTS, store_segments
from agvm_jax.data.augment.decode import Turns
from agvm_jax.data.storage.records import (
    FEATURES,
    OBJECTS,
    SIZES,
    Card,
    Example,
    Origin,
    Source,
    flush_to_disk,
    read_card,
    write_card,
)

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

log = logging.getLogger(__name__)

_SHARD_BYTES = 256 * 2**20
_CHUNK = 64  # examples between two notes of progress


def open_split(
    origin: Origin, cache_dir: str | os.PathLike, learns_masks: bool = False
) -> Source:
    """Open a split, preparing it first where `cache_dir` does not hold it whole.

    The folder's name holds the split's fingerprint, so a data set that changes is
    prepared beside the old one, which may be deleted by hand. `learns_masks` is the
    Source's.

    Raises:
      DataError: about the data, or about the disk; nothing half-written is left that
        a later call would take for whole.
    """
    cache = pathlib.Path(cache_dir).expanduser()
    key = f"{origin.name}-{origin.split}-{origin.fingerprint()[:20]}"
    folder = cache / key
    card = read_card(folder) if folder.exists() else None
    if card is None:
        with _disk_errors(cache):
            cache.mkdir(parents=True, exist_ok=True)
            with locked(cache / f".{key}.lock", f"preparing {key}"):
                card = read_card(folder)  # another process may have been faster
                if card is None:
                    card = _prepare(origin, cache, folder)
    return Source(folder, card, origin, learns_masks)


def _prepare(origin: Origin, cache: pathlib.Path, folder: pathlib.Path) -> Card:
    """Write the records of `origin` and move them to `folder` in one step."""
    annotations = origin.annotations()
    sizes = origin.image_sizes(annotations)
    turns = origin.turns(annotations)
    _check_names(annotations)
    # What a killed preparation left is continued, where a lock shows that its writer
    # is gone. Without locks each process has a folder of its own.
    owner = "" if fcntl else f"-{os.getpid()}"
    part = cache / f".{folder.name}.part{owner}"
    _check_space(origin, int(sizes.sum()), cache, part)
    try:
        _write_records(origin, annotations, turns, sizes, part)
        _count_records(part, len(sizes))
        np.save(part / SIZES, annotations.sizes)
        np.save(part / OBJECTS, annotations.object_counts())
        report = dataclasses.replace(
            annotations.report(),
            turned_images=int(turns.turned.sum()),
            unturned_images=int(turns.unturned.sum()),
        )
        card = write_card(origin, annotations, report, part)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)  # leave no full disk behind
        raise
    if folder.exists():  # damaged, or read_card would have found it whole
        shutil.rmtree(folder)
    try:
        part.rename(folder)
    except OSError:  # without locks, another process may have finished first
        if read_card(folder) is None:
            raise
        shutil.rmtree(part)
    flush_to_disk(cache)
    return card


def _check_names(annotations: Annotations) -> None:
    """A file system takes any bytes for a name; records hold text."""
    for name in annotations.file_names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"The name of the image {name!r} is not UTF-8 text; rename the file."
            ) from None


def _write_records(
    origin: Origin,
    annotations: Annotations,
    turns: Turns,
    sizes: np.ndarray,
    part: pathlib.Path,
) -> None:
    """Write all examples to `part`, after the whole shards that already stand there."""
    done = _whole_shards(part)
    if done == 0:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
    info = tfds.core.DatasetInfo(
        builder=tfds.core.DatasetIdentity(
            name="agvm",
            version=tfds.core.Version("1.0.0"),
            data_dir=os.fspath(part),
            module_name=__name__,
        ),
        description=f"{origin.split} split of {origin.name}",
        features=tfds.features.FeaturesDict(FEATURES),
    )
    writer = tfds.core.SequentialWriter(
        info,
        max_examples_per_shard=max(1, int(_SHARD_BYTES / max(1.0, sizes.mean()))),
        overwrite=done == 0,
        file_format="array_record",
    )
    writer.initialize_splits([origin.split], fail_if_exists=False)
    if done:
        log.info("Continuing %s: %d images are there.", part.name, done)
    chunk: list[Example] = []
    with tqdm(
        total=len(sizes),
        initial=done,
        desc=f"Preparing {origin.name} {origin.split}",
        unit=" images",
        delay=0.5,
        disable=None,  # no bar where nobody watches
    ) as bar:
        for index in range(done, len(sizes)):
            height, width = annotations.sizes[index].tolist()
            segments = origin.segments(annotations, index)
            chunk.append(
                {
                    "image": origin.image_bytes(annotations, index),
                    "file_name": annotations.file_names[index],
                    "image_id": int(annotations.image_ids[index]),
                    "height": height,
                    "width": width,
                    "turn": int(turns.codes[index]),
                    **annotations.objects(index),
                    **(store_segments(segments) if segments else NO_SEGMENTS),
                    "masks": pack(annotations.bitmaps(index)),
                }
            )
            if len(chunk) == _CHUNK or index == len(sizes) - 1:
                with _writer_errors():
                    writer.add_examples({origin.split: chunk})
                bar.update(len(chunk))
                chunk = []
    with _writer_errors():
        writer.close_all()


def _whole_shards(part: pathlib.Path) -> int:
    """Examples in the finished shards of an interrupted preparation; 0: start anew."""
    try:
        info = json.loads((part / "dataset_info.json").read_text("utf-8"))
        lengths = [int(n) for n in info["splits"][0].get("shardLengths", [])]
        shards = sorted(part.glob("*.array_record-*"))[: len(lengths)]
        if [_records_in(shard) for shard in shards] != lengths:
            return 0
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return 0
    return sum(lengths)


def _count_records(part: pathlib.Path, expected: int) -> None:
    """Raise OSError unless the shards hold all records: a full disk may go unsaid."""
    found = sum(_records_in(shard) for shard in part.glob("*.array_record-*"))
    if found != expected:
        raise OSError(errno.EIO, f"{found} of {expected} records arrived on disk")


def _records_in(shard: pathlib.Path) -> int:
    """Records in one ArrayRecord file; OSError where it is not whole."""
    try:
        reader = array_record_module.ArrayRecordReader(os.fspath(shard))
        count = reader.num_records()
        reader.close()  # this, too, is where damage may be noticed
    except RuntimeError as error:
        raise OSError(errno.EIO, f"{shard.name} is not whole") from error
    return count


def _check_space(
    origin: Origin, image_bytes: int, cache: pathlib.Path, part: pathlib.Path
) -> None:
    """Say what disk the preparation takes; DataError where there is not enough."""
    there = sum(f.stat().st_size for f in part.glob("*")) if part.exists() else 0
    need = int(image_bytes * 1.02) + 2**20
    free = shutil.disk_usage(cache).free + there
    if need > free:
        raise DataError(
            f"Preparing the {origin.split} split of {origin.name} takes"
            f" {_gigabytes(need)} in {cache}, where {_gigabytes(free)} are free; make"
            " room or set config.data.cache_dir to another disk."
        )
    if need > 2**30:
        log.warning(
            "Preparing the %s split of %s once: %s in %s.",
            origin.split,
            origin.name,
            _gigabytes(need),
            cache,
        )


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


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


@contextlib.contextmanager
def _writer_errors() -> Iterator[None]:
    """ArrayRecord says RuntimeError for what the disk refused."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(errno.EIO, str(error).partition(";")[0]) from error


@contextlib.contextmanager
def _disk_errors(cache: pathlib.Path) -> Iterator[None]:
    """Turn the system's errors about the cache folder into sentences."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(
            f"The data set could not be written to {cache} ({reason}); nothing half"
            " written is left. Make room or set config.data.cache_dir elsewhere."
        ) from error
