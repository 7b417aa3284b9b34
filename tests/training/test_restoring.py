"""Damaged checkpoints are found, set aside and done without; others are left alone."""

import gc
import json
import logging
import shutil

import chex
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from test_checkpoint import make_state

from agvm_jax.training import restoring
from agvm_jax.training.checkpoint import Checkpoints
from agvm_jax.training.restoring import (
    CheckpointMismatch,
    NoGoodCheckpoint,
    as_dict,
    restore_newest,
    saved_steps,
)

LOG = logging.getLogger("test")

# Orbax leaves coroutines behind when it cannot read; they end here, not in other tests.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(scope="module", autouse=True)
def _frozen():
    """What earlier tests left is not looked through at each collection: seconds."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _collect(_frozen):
    yield
    gc.collect()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the checkpoints of steps 4 and 8; nobody changes it."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    checkpoints = Checkpoints(folder, 3, {}, LOG)
    for step in (4, 8):
        checkpoints.save(step, make_state(seed=step))
    checkpoints.close()
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of it to break."""
    return shutil.copytree(saved, tmp_path / "checkpoints")


def newest(folder):
    return restore_newest(folder, jax.eval_shape(make_state), LOG)


def files_of(folder, step):
    files = sorted(path for path in (folder / str(step)).rglob("*") if path.is_file())
    return [path for path in files if path.stat().st_size]


def test_whatever_bit_is_flipped_no_other_state_comes_back(saved, tmp_path):
    """In every file at several places; some bits say nothing that anybody reads."""
    fell_back = set()
    for number, original in enumerate(files_of(saved, 8)):
        size = original.stat().st_size
        for place in sorted({0, size // 3, size // 2, size - 1}):
            folder = tmp_path / f"{number}-{place}" / "checkpoints"
            shutil.copytree(saved, folder)
            path = folder / original.relative_to(saved)
            content = bytearray(path.read_bytes())
            content[place] ^= 1 << place % 8
            path.write_bytes(content)
            restored = newest(folder)
            expected = make_state(seed=restored.step)
            chex.assert_trees_all_equal(restored.state, expected)
            if restored.step == 4:
                fell_back.add(original.name)
                assert saved_steps(folder) == [4]
                assert (folder.parent / "damaged_checkpoints" / "8").is_dir()
            shutil.rmtree(folder.parent)
    # Arrays, what they are and where they lie, and the record.
    assert {"record.json", "manifest.ocdbt", "_METADATA"} <= fell_back
    assert any(len(name) == 32 for name in fell_back)  # the arrays' own files


@pytest.mark.parametrize(
    "name",
    ["state/_METADATA", "integrity/record.json", "state/manifest.ocdbt", "state"],
)
def test_a_missing_file_is_damage_and_is_told_with_both_steps(folder, name, caplog):
    path = folder / "8" / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert newest(folder).step == 4
    [message] = [record.getMessage() for record in caplog.records]
    assert "the checkpoint of step 8 is damaged" in message
    assert "damaged_checkpoints/8" in message and "that of step 4 is used" in message
    assert newest(folder).step == 4 and saved_steps(folder) == [4]


def test_a_relative_folder_as_the_default_run_folder_is_one(folder, monkeypatch):
    monkeypatch.chdir(folder.parent.parent)
    restored = newest(folder.relative_to(folder.parent.parent))
    chex.assert_trees_all_equal(restored.state, make_state(seed=8))
    assert saved_steps(folder) == [4, 8]


def test_a_file_that_was_cut_short_is_damage(folder):
    largest = max(files_of(folder, 8), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-40])
    assert newest(folder).step == 4


def test_arrays_that_differ_are_named(folder, caplog):
    """The arrays of another step under this one's record: all files are whole."""
    shutil.rmtree(folder / "8" / "state")
    shutil.copytree(folder / "4" / "state", folder / "8" / "state")
    assert newest(folder).step == 4
    assert "key, params/backbone/w are not what was saved" in caplog.text


def test_when_none_is_good_the_run_does_not_begin_anew_by_itself(folder):
    for step in (4, 8):
        (folder / str(step) / "state" / "_METADATA").unlink()
    with pytest.raises(NoGoodCheckpoint) as error:
        newest(folder)
    message = str(error.value)
    assert "of step 8" in message and "--config.train.start_from" in message
    # Nor when it is started again and again: the fault may be the machine's.
    assert saved_steps(folder) == [4, 8]
    assert not (folder.parent / "damaged_checkpoints").exists()


def test_two_that_were_set_aside_do_not_meet(folder, saved):
    for _ in range(2):
        (folder / "8" / "state" / "_METADATA").unlink()
        newest(folder)
        shutil.copytree(saved / "8", folder / "8")
    aside = folder.parent / "damaged_checkpoints"
    assert sorted(path.name for path in aside.iterdir()) == ["8", "8-2"]


def test_a_checkpoint_of_another_model_lists_what_differs_and_stays(folder):
    like = jax.eval_shape(lambda: make_state(width=4, head="rpn"))
    with pytest.raises(CheckpointMismatch) as error:
        restore_newest(folder, like, LOG)
    for words in (
        "step 8",
        "params/backbone/w is (2, 3) there and (2, 4) here",
        "params/rpn/b is not in it",
        "params/head/b is only in it",
        "--config.name",
        "--config.workdir",
    ):
        assert words in str(error.value)
    assert saved_steps(folder) == [4, 8]


def test_another_dtype_is_another_model_and_no_damage(folder):
    like = make_state()
    like.params["backbone"]["w"] = like.params["backbone"]["w"].astype(np.float16)
    with pytest.raises(CheckpointMismatch, match="w is float32 there and float16 here"):
        restore_newest(folder, like, LOG)
    assert saved_steps(folder) == [4, 8]


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "Permission denied"),
        OSError(5, "Input/output error"),
        MemoryError(),
        jax.errors.JaxRuntimeError("INVALID_ARGUMENT: of a device"),
        TypeError("an argument that this release of a library does not know"),
        ValueError("UNAVAILABLE: Error reading: the server does not answer"),
        ValueError("Error reading [source locations='os_error_code='116'']"),
    ],
    ids=repr,
)
def test_an_error_that_tells_of_no_damage_is_raised_as_it_is(
    folder, monkeypatch, error
):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(ocp.StandardCheckpointer, "restore", fail)
    with pytest.raises(type(error)) as raised:
        newest(folder)
    assert raised.value is error
    assert error.__notes__ == [
        f"This came while the checkpoint {folder / '8'} was being read."
    ]
    assert saved_steps(folder) == [4, 8]


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "No such file or directory"),
        FileNotFoundError("said by Orbax, without a number"),
        ValueError("DATA_LOSS: Error reading: checksum does not match"),
        ValueError("Error reading [source locations='os_error_code='21'']"),
        KeyError("write_shape"),
        UnicodeDecodeError("utf-8", b"\xee", 0, 1, "invalid start byte"),
    ],
    ids=repr,
)
def test_an_error_that_tells_of_damage_costs_one_checkpoint(folder, monkeypatch, error):
    read = ocp.StandardCheckpointer.restore

    def fail(checkpointer, arrays, target):
        if arrays.parent.name == "8":
            raise error
        return read(checkpointer, arrays, target)

    monkeypatch.setattr(ocp.StandardCheckpointer, "restore", fail)
    assert newest(folder).step == 4


def test_one_that_is_still_being_written_is_none(folder):
    shutil.copytree(folder / "8", folder / "9.orbax-checkpoint-tmp")
    assert saved_steps(folder) == [4, 8] and newest(folder).step == 8


def test_a_run_from_before_there_were_checksums_goes_on(tmp_path, caplog):
    folder, state = tmp_path / "checkpoints", make_state(seed=3)
    with ocp.CheckpointManager(
        folder, item_handlers=ocp.StandardCheckpointHandler()
    ) as manager:
        for step in (1, 2):
            manager.save(step, args=ocp.args.StandardSave(as_dict(state)))
    restored = newest(folder)
    chex.assert_trees_all_equal(restored.state, state)
    assert restored.record == {} and "cannot be verified" in caplog.text
    with pytest.raises(CheckpointMismatch, match="is not in it"):
        restore_newest(folder, make_state(head="rpn"), LOG)
    (folder / "2" / "default" / "_METADATA").unlink()
    assert newest(folder).step == 1


def test_a_record_says_what_it_is(folder):
    record = json.loads((folder / "8" / "integrity" / "record.json").read_text())
    dtype, shape, checksum = record["arrays"]["params/backbone/w"]
    assert (dtype, shape) == ("float32", [2, 3]) and 0 <= checksum < 2**32
    assert restoring.RECORD_FILE == "record.json"
