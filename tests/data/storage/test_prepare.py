"""Preparing a split: whole or not there, continued, shared, and checked."""

import concurrent.futures
import dataclasses
import errno
import functools
import io
import pathlib
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow_datasets as tfds
import tqdm

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.formats.shapes import ShapesOrigin
from agvm_jax.data.formats.shapes_drawing import Style
from agvm_jax.data.storage import prepare, records
from agvm_jax.data.storage.prepare import open_split
from agvm_jax.data.storage.records import CARD

ROOT = pathlib.Path(__file__).parents[3]
STYLE = Style(seed=0, image_size=(32, 40), max_objects=3)
ORIGIN = ShapesOrigin("train", count=9, style=STYLE)


@dataclasses.dataclass(frozen=True)
class Watched(ShapesOrigin):
    """Notes which images are asked for, and fails at one of them."""

    asked: list = dataclasses.field(default_factory=list, compare=False)
    fail_at: int = -1
    failure: BaseException = dataclasses.field(default_factory=KeyboardInterrupt)

    def fingerprint(self):
        return ORIGIN.fingerprint()

    def image_bytes(self, annotations, index):
        if index == self.fail_at:
            raise self.failure
        self.asked.append(index)
        return super().image_bytes(annotations, index)


def watched(**options):
    return Watched("train", count=9, style=STYLE, **options)


@pytest.fixture
def small_shards(monkeypatch):
    """Three images a shard, and progress noted after each."""
    monkeypatch.setattr(prepare, "_SHARD_BYTES", 3 * 2 * 32 * 40)
    monkeypatch.setattr(prepare, "_CHUNK", 1)


def visible(cache):
    return sorted(p.name for p in cache.iterdir() if not p.name.startswith("."))


def assert_holds_the_drawings(source):
    annotations = ORIGIN.annotations()
    assert len(source) == 9
    for index in range(9):
        example = source[index]
        assert example["image"] == ORIGIN.image_bytes(annotations, index)
        assert example["image_id"] == index + 1
        assert (example["height"], example["width"]) == (32, 40)
        assert example["file_name"] == f"shapes/train/{index + 1:06d}.jpg"
        for key, value in annotations.objects(index).items():
            np.testing.assert_array_equal(example[key], value)
            assert example[key].dtype == value.dtype
            assert example[key].shape == value.shape


def test_records_hold_the_encoded_images_and_their_objects_in_order(tmp_path):
    assert_holds_the_drawings(open_split(ORIGIN, tmp_path))


def test_a_prepared_split_is_not_prepared_again(tmp_path):
    open_split(ORIGIN, tmp_path)
    again = watched()
    assert_holds_the_drawings(open_split(again, tmp_path))
    assert again.asked == []


def test_any_tfds_user_can_read_the_folder(tmp_path):
    source = open_split(ORIGIN, tmp_path)
    builder = tfds.builder_from_directory(source.folder)
    assert builder.info.splits["train"].num_examples == 9
    records = builder.as_data_source(
        "train", decoders={"image": tfds.decode.SkipDecoding()}
    )
    assert records[4]["image"] == source[4]["image"]


def test_an_interrupted_preparation_is_invisible_and_continued(tmp_path, small_shards):
    first = watched(fail_at=7)
    with pytest.raises(KeyboardInterrupt):
        open_split(first, tmp_path)
    assert visible(tmp_path) == []
    second = watched()
    source = open_split(second, tmp_path)
    assert second.asked == [6, 7, 8]  # two whole shards of three were kept
    assert_holds_the_drawings(source)
    assert not list(tmp_path.glob(".*part*"))


def test_progress_is_shown_and_goes_on_where_it_stopped(
    tmp_path, small_shards, monkeypatch
):
    shown = io.StringIO()
    bar = functools.partial(tqdm.tqdm, file=shown, mininterval=0)
    monkeypatch.setattr(
        prepare, "tqdm", lambda **options: bar(**options | {"disable": 0, "delay": 0})
    )
    with pytest.raises(KeyboardInterrupt):
        open_split(watched(fail_at=7), tmp_path)
    assert "Preparing shapes train" in shown.getvalue() and "7/9" in shown.getvalue()
    shown.truncate(0)
    open_split(ORIGIN, tmp_path)
    assert "6/9" in shown.getvalue() and "9/9" in shown.getvalue()
    assert "5/9" not in shown.getvalue()


def test_an_interruption_of_the_first_shard_starts_anew(tmp_path, small_shards):
    with pytest.raises(KeyboardInterrupt):
        open_split(watched(fail_at=1), tmp_path)
    second = watched()
    assert_holds_the_drawings(open_split(second, tmp_path))
    assert second.asked == list(range(9))


def test_a_damaged_remainder_is_thrown_away(tmp_path, small_shards):
    with pytest.raises(KeyboardInterrupt):
        open_split(watched(fail_at=7), tmp_path)
    shard = sorted(tmp_path.glob(".*part/*array_record-*"))[1]
    shard.write_bytes(shard.read_bytes()[:-300])
    second = watched()
    assert_holds_the_drawings(open_split(second, tmp_path))
    assert second.asked == list(range(9))


@pytest.mark.parametrize("damage", ["truncated shard", "no card", "torn card"])
def test_a_damaged_set_is_prepared_anew(damage, tmp_path):
    folder = open_split(ORIGIN, tmp_path).folder
    if damage == "truncated shard":
        shard = next(folder.glob("*array_record*"))
        shard.write_bytes(shard.read_bytes()[:-50])
    elif damage == "no card":
        (folder / CARD).unlink()
    else:
        (folder / CARD).write_text((folder / CARD).read_text()[:40])
    again = watched()
    assert_holds_the_drawings(open_split(again, tmp_path))
    assert len(again.asked) == 9


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, small_shards):
    full = watched(fail_at=5, failure=OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(DataError, match="No space left.*config.data.cache_dir"):
        open_split(full, tmp_path)
    assert visible(tmp_path) == [] and not list(tmp_path.glob(".*part*"))
    assert_holds_the_drawings(open_split(ORIGIN, tmp_path))


def test_records_that_did_not_arrive_are_noticed(tmp_path, small_shards, monkeypatch):
    """A writer that fails silently: one shard is empty at the end."""
    real = prepare._records_in
    monkeypatch.setattr(
        prepare, "_records_in", lambda s: 0 if s.name.endswith("1") else real(s)
    )
    with pytest.raises(DataError, match="6 of 9 records arrived"):
        open_split(ORIGIN, tmp_path)
    assert visible(tmp_path) == []


def test_too_little_space_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1000)
    )
    origin = watched()
    with pytest.raises(DataError, match="takes 0.00 GB in .*cache_dir"):
        open_split(origin, tmp_path)
    assert origin.asked == [] and visible(tmp_path) == []


def test_a_cache_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="config.data.cache_dir"):
        open_split(ORIGIN, tmp_path / "file" / "cache")


def test_a_record_that_cannot_be_read_names_the_folder(tmp_path):
    source = open_split(ORIGIN, tmp_path)
    shard = next(source.folder.glob("*array_record*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2 - 400 : len(content) // 2 + 400] = bytes(800)
    shard.write_bytes(content)  # of the same size: only reading can tell
    with pytest.raises(DataError, match="cannot be read .*delete that folder"):
        for index in range(9):
            source[index]


def test_indices_are_those_of_a_sequence(tmp_path):
    source = open_split(ORIGIN, tmp_path)
    assert source[-1]["image_id"] == source[8]["image_id"] == 9
    for index in (9, -10):
        with pytest.raises(IndexError):
            source[index]


def test_two_that_prepare_at_once_prepare_once(tmp_path):
    """File locks hold between threads as between processes: each opens its own."""
    origins = [watched(), watched()]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        sources = list(pool.map(open_split, origins, [tmp_path] * 2))
    assert sorted(len(origin.asked) for origin in origins) == [0, 9]
    for source in sources:
        assert_holds_the_drawings(source)


@pytest.mark.parametrize("where", ["sizes", "card"])
def test_a_disk_that_fills_at_the_very_end_leaves_nothing_either(
    where, tmp_path, monkeypatch
):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if where == "sizes":
            patch.setattr(prepare.np, "save", full)
        else:
            patch.setattr(records, "flush_to_disk", full)
        with pytest.raises(DataError, match="No space left"):
            open_split(ORIGIN, tmp_path)
    assert visible(tmp_path) == [] and not list(tmp_path.glob(".*part*"))
    assert_holds_the_drawings(open_split(ORIGIN, tmp_path))


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_FSIZE")
def test_a_real_refusal_of_the_system_is_one_sentence(tmp_path):
    """A process that may write files of 4 kB only, as on a disk that is full."""
    code = (
        "import resource, signal, sys\n"
        "from agvm_jax.data.formats.shapes import ShapesOrigin\n"
        "from agvm_jax.data.storage.prepare import open_split\n"
        "from agvm_jax.data.formats.shapes_drawing import Style\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "style = Style(seed=0, image_size=(32, 40), max_objects=3)\n"
        "try:\n"
        "    open_split(ShapesOrigin('train', 9, style), sys.argv[1])\n"
        "except ValueError as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.startswith("DataError The data set could not be written to")
    assert visible(tmp_path) == [] and not list(tmp_path.glob(".*part*"))
    assert_holds_the_drawings(open_split(ORIGIN, tmp_path))
