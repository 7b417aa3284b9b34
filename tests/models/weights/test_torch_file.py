"""Files of torch.save, read without torch; some that torch wrote are beside this."""

import collections
import io
import os
import pickle
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from models.weights.torch_file import read_torch_file

FOLDER = Path(__file__).with_name("torch_files")


@pytest.fixture(scope="module")
def values():
    with np.load(FOLDER / "values.npz") as stored:
        return dict(stored)


@pytest.mark.parametrize("name", ["zip", "stream", "checkpoint"])
def test_tensors_are_those_that_torch_saved(name, values):
    found = read_torch_file(FOLDER / f"{name}.pth")
    assert "torch" not in sys.modules
    assert list(found) == list(values)
    for key, value in values.items():
        if key == "bfloat16":
            assert found[key].dtype.name == "bfloat16"
        else:
            assert found[key].dtype == value.dtype, key
        np.testing.assert_array_equal(found[key].astype(value.dtype), value, key)
        assert found[key].flags.owndata and found[key].flags.writeable


def test_a_whole_module_is_refused_by_name():
    with pytest.raises(ValueError, match=r"module.pth.*torch.nn.*model.state_dict\(\)"):
        read_torch_file(FOLDER / "module.pth")


@pytest.mark.parametrize("name", ["zip", "stream"])
def test_a_file_cut_anywhere_is_called_that(name, tmp_path):
    whole = (FOLDER / f"{name}.pth").read_bytes()
    path = tmp_path / "cut.pth"
    for length in (*range(0, len(whole) - 1, 61), len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="cut.pth is cut short"):
            read_torch_file(path)


@pytest.mark.parametrize("name", ["zip", "stream"])
def test_a_file_with_changed_bytes_never_ends_in_another_error(name, tmp_path):
    whole = (FOLDER / f"{name}.pth").read_bytes()
    path = tmp_path / "changed.pth"
    rng = np.random.default_rng(0)
    refused = 0
    for place in rng.integers(0, len(whole), 300):
        changed = bytearray(whole)
        changed[place] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        try:
            read_torch_file(path)
        except ValueError as error:
            assert "changed.pth" in str(error)
            refused += 1
    assert refused > 50


def test_another_file_is_called_that(tmp_path):
    path = tmp_path / "page.pth"
    path.write_text("<html>not found</html>")
    with pytest.raises(ValueError, match=r"page.pth.*not a file of torch.save"):
        read_torch_file(path)


# What follows is pickled by hand, as an attacker would.


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


class Numbers:
    """Pickles as a storage."""

    def __init__(self, key="0", numel=4, kind="storage"):
        self.saved_id = (kind, Global("torch", "FloatStorage"), key, "cpu", numel)


class Global:
    """Pickles as a name that need not exist here."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class GlobalPickler(pickle._Pickler):
    """The pickler written in Python, which can be taught to write any name."""

    def persistent_id(self, thing):
        return thing.saved_id if isinstance(thing, Numbers) else None

    def save(self, thing, save_persistent_id=True):
        if isinstance(thing, Global):
            self.write(f"c{thing.module}\n{thing.name}\n".encode())
        elif isinstance(thing, Call) and isinstance(thing.reduced[0], Global):
            self.save(thing.reduced[0])
            self.save(thing.reduced[1])
            self.write(pickle.REDUCE)
        else:
            super().save(thing, save_persistent_id)


def tensor(numbers, offset, shape, strides):
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    hooks = collections.OrderedDict()
    return Call(rebuild, numbers, offset, shape, strides, False, hooks)


def write(path, tree, compression=zipfile.ZIP_STORED, order=b"little"):
    """Write `tree` into the zip container, with one storage of four numbers."""
    pickled = io.BytesIO()
    GlobalPickler(pickled, protocol=2).dump(tree)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled.getvalue())
        archive.writestr("archive/byteorder", order)
        archive.writestr("archive/data/0", struct.pack("<4f", 1, 2, 3, 4))
    return path


def test_what_the_forgers_here_write_is_read_if_it_is_honest(tmp_path):
    path = write(tmp_path / "x.pth", {"a": tensor(Numbers(), 1, (3,), (1,))})
    np.testing.assert_array_equal(read_torch_file(path)["a"], [2, 3, 4])


@pytest.mark.parametrize(
    "function",
    [
        Global("os", "system"),
        Global("builtins", "eval"),
        Global("builtins", "getattr"),
        Global("torch", "load"),
        Global("torch._utils", "_rebuild_tensor_v2.__globals__"),
        Global("models.weights.torch_file", "View"),
        Global("numpy", "frombuffer"),
    ],
    ids=lambda g: f"{g.module}.{g.name}",
)
def test_a_pickle_that_calls_something_is_refused(function, tmp_path):
    path = write(tmp_path / "x.pth", {"a": Call(function, "argument")})
    with pytest.raises(
        ValueError, match=rf"asks for {function.module}.{function.name}"
    ):
        read_torch_file(path)


def test_the_call_of_a_pickle_is_not_made(tmp_path):
    """The standard pickler's bytes, in both containers."""
    canary = tmp_path / "canary"
    call = pickle.dumps({"a": Call(os.mkdir, str(canary))}, protocol=2)
    pickle.loads(call)
    assert canary.exists()  # it would have been
    canary.rmdir()
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", call)
    with pytest.raises(ValueError, match="mkdir"):
        read_torch_file(path)
    path.write_bytes(call)
    with pytest.raises(ValueError, match="mkdir"):
        read_torch_file(path)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("forged", "message"),
    [
        (tensor(Numbers(), 0, (5,), (1,)), "reaches over the end"),
        (tensor(Numbers(), 2, (3,), (1,)), "reaches over the end"),
        (tensor(Numbers(), 0, (2, 2), (3, 1)), "reaches over the end"),
        (tensor(Numbers(), 0, (10**12,), (0,)), "reaches over the end"),
        (tensor(Numbers(), 3, (2,), (-1,)), "reaches over the end"),
        (tensor(Numbers(numel=10**12), 0, (10**12,), (1,)), "not all there"),
        (tensor(Numbers(key="1"), 0, (4,), (1,)), "data/1"),
        (tensor(Numbers(kind="module"), 0, (4,), (1,)), "something unknown"),
        (tensor(7, 0, (4,), (1,)), "without a storage"),
        (7, "'a' is a int and not a tensor"),
    ],
)
def test_a_tensor_that_is_not_there_is_refused(forged, message, tmp_path):
    path = write(tmp_path / "x.pth", {"a": forged})
    with pytest.raises(ValueError, match=message):
        read_torch_file(path)


def test_a_storage_cannot_grow_on_second_mention(tmp_path):
    honest = tensor(Numbers(numel=4), 0, (4,), (1,))
    larger = tensor(Numbers(numel=1000), 0, (1000,), (1,))
    path = write(tmp_path / "x.pth", {"a": honest, "b": larger})
    with pytest.raises(ValueError, match="in two ways"):
        read_torch_file(path)


def test_compressed_and_big_endian_files_are_refused(tmp_path):
    tree = {"a": tensor(Numbers(), 0, (4,), (1,))}
    path = write(tmp_path / "x.pth", tree, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="compressed"):
        read_torch_file(path)
    path = write(tmp_path / "x.pth", tree, order=b"big")
    with pytest.raises(ValueError, match="big-endian"):
        read_torch_file(path)


def test_something_else_than_a_state_dict_is_called_that(tmp_path):
    with pytest.raises(ValueError, match="it holds a list"):
        read_torch_file(write(tmp_path / "x.pth", [1, 2]))
