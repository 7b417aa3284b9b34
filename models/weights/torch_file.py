"""Read the tensors of a file that torch.save wrote, without torch.

Such a file is a pickle in which the numbers are missing, and the numbers. A pickle can
name any function to be called; here it may name what state dicts are made of and
nothing else, so a stranger's file can do no worse than be refused. Both containers are
read: the zip file of torch 1.6 (2020) and later, and the plain stream before it, in
which the older of torchvision's detectors are still published.
"""

import collections
import io
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np
from numpy.lib.stride_tricks import as_strided

_STREAM_MAGIC = 0x1950A86A20F9469CFC6C
_STREAM_VERSION = 1001

# Names and not dtypes, because a pickle could change a dtype that it is given.
_DTYPES = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}

# What reading a damaged file ends in, from zipfile, pickle and struct.
_DAMAGED = (
    zipfile.BadZipFile,
    pickle.UnpicklingError,
    struct.error,
    EOFError,
    KeyError,
    IndexError,
    AttributeError,
    TypeError,
    UnicodeDecodeError,
    OverflowError,
    RuntimeError,
    MemoryError,
)

# Under which a training script's checkpoint keeps the state dict.
_STATE_DICT_KEYS = ("model", "state_dict", "model_state_dict")


class Storage(NamedTuple):
    """A run of numbers that tensors look at; its numbers come later."""

    dtype: str
    key: str
    numel: int


class View(NamedTuple):
    """A tensor: which numbers of a storage, counted in numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch_file(path: Path) -> dict[str, np.ndarray]:
    """Return a state dict.

    Args:
      path: a file of `torch.save`: a state dict, or a dict that holds one under "model"
        or "state_dict", as training scripts write it.

    Raises:
      ValueError: the file is cut short or damaged, or holds something else; the message
        names it.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            return _read_zip(file) if is_zip else _read_stream(file)
    except _DAMAGED as error:
        raise ValueError(
            f"{path} is cut short, damaged, or not a file of torch.save ({error}): "
            "fetch it once more"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _read_zip(file: BinaryIO) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        if any(entry.compress_type for entry in archive.infolist()):
            raise ValueError("torch.save does not compress, and this is compressed")
        names = archive.namelist()
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise KeyError(f"data.pkl is in it {len(pickles)} times")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}byteorder" in names:
            _check_order(archive.read(f"{root}byteorder") == b"little")
        tree = _Unpickler(io.BytesIO(archive.read(pickles[0]))).load()
        return _fill(tree, lambda storage: archive.read(f"{root}data/{storage.key}"))


def _read_stream(file: BinaryIO) -> dict[str, np.ndarray]:
    if _Unpickler(file).load() != _STREAM_MAGIC:
        raise EOFError("it does not begin like one")
    if _Unpickler(file).load() != _STREAM_VERSION:
        raise ValueError("it is of an unknown version of the format")
    _check_order(_Unpickler(file).load()["little_endian"])
    unpickler = _Unpickler(file)
    tree = unpickler.load()
    raw = {}
    for key in _Unpickler(file).load():
        (count,) = struct.unpack("<q", file.read(8))
        itemsize = _dtype(unpickler.storages[key].dtype).itemsize
        raw[key] = file.read(count * itemsize)
    return _fill(tree, lambda storage: raw[storage.key])


def _check_order(little_endian: bool) -> None:
    if not little_endian:
        raise ValueError("it was written on a big-endian machine")


class _Unpickler(pickle.Unpickler):
    """Knows the names that state dicts are made of, and no others."""

    def __init__(self, file: BinaryIO):
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, Storage] = {}
        # Made anew for each file: a pickle may write on what it is given.
        self._names: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch", "Size"): tuple,
            ("torch._utils", "_rebuild_tensor_v2"): lambda *a: _make_view(*a[:4]),
            ("torch._utils", "_rebuild_parameter"): lambda view, *_: view,
            **{("torch", name): dtype for name, dtype in _DTYPES.items()},
        }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._names:
            raise ValueError(
                f"it asks for {module}.{name}, and only tensors in dicts are read. If "
                "you trust the file, load it with torch and save model.state_dict()"
            )
        return self._names[module, name]

    def persistent_load(self, saved_id: Any) -> Storage:
        kind, dtype, key, _, numel, *view = saved_id
        if kind != "storage" or dtype not in _DTYPES.values() or any(view):
            raise ValueError(f"it holds something unknown: {saved_id!r:.200}")
        storage = Storage(dtype, str(key), int(numel))
        if self.storages.setdefault(storage.key, storage) != storage:
            raise ValueError(f"it describes the storage {storage.key} in two ways")
        return storage


def _make_view(storage, offset, shape, strides) -> View:
    """Check a tensor against its storage: a pickle could claim any shape."""
    if not isinstance(storage, Storage):
        raise TypeError("a tensor without a storage")
    numbers = [int(n) for n in (offset, *shape, *strides)]
    shape, strides = tuple(map(int, shape)), tuple(map(int, strides))
    count = math.prod(shape)
    last = numbers[0] + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    reaches_over = count > storage.numel or (count and last >= storage.numel)
    if min(numbers) < 0 or reaches_over:
        raise ValueError(
            f"it holds a tensor {shape} that reaches over the end of its "
            f"{storage.numel} numbers"
        )
    return View(storage, numbers[0], shape, strides)


def _fill(tree: Any, read: Callable[[Storage], bytes]) -> dict[str, np.ndarray]:
    """Return the state dict in `tree` with its numbers, which `read` gives."""
    for key in _STATE_DICT_KEYS:
        if isinstance(tree, Mapping) and isinstance(tree.get(key), Mapping):
            tree = tree[key]
    if not isinstance(tree, Mapping):
        raise ValueError(f"it holds a {type(tree).__name__} and not a state dict")
    storages: dict[str, np.ndarray] = {}
    filled = {}
    for name, view in tree.items():
        if not isinstance(name, str) or not isinstance(view, View):
            raise ValueError(
                f"it is no state dict: {name!r} is a {type(view).__name__} and not a "
                "tensor"
            )
        storage, dtype = view.storage, _dtype(view.storage.dtype)
        if storage.key not in storages:
            raw = read(storage)
            if len(raw) < storage.numel * dtype.itemsize:
                raise EOFError(f"the numbers of {name} are not all there")
            storages[storage.key] = np.frombuffer(raw, dtype, storage.numel)
        numbers = storages[storage.key][view.offset :]
        strides = [step * dtype.itemsize for step in view.strides]
        filled[name] = np.array(as_strided(numbers, view.shape, strides))
    return filled


def _dtype(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
