"""Files of weights: found on the disk or fetched from a hub, read, and written."""

import hashlib
import os
import re
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .torch_file import read_torch_file

# Names as torchvision has them, and its files; the eight digits are the first of a
# file's SHA-256.
PUBLISHED = {
    "resnet18": "resnet18-f37072fd.pth",
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-0676ba61.pth",  # IMAGENET1K_V1, which the papers start from
    "resnet50_v2": "resnet50-11ad3fa6.pth",  # IMAGENET1K_V2, a longer recipe
    "swin_t": "swin_t-704ceda3.pth",
    "swin_s": "swin_s-5e29d889.pth",
    "swin_b": "swin_b-68c6b09e.pth",
    "retinanet_resnet50_fpn": "retinanet_resnet50_fpn_coco-eeacb38b.pth",
    "fasterrcnn_resnet50_fpn": "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
    "maskrcnn_resnet50_fpn": "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
}
ADDRESS = "https://download.pytorch.org/models/"

# What np.load answers to files that are no .npz, or damaged.
_NPZ_ERRORS = (
    OSError,
    ValueError,
    EOFError,
    TypeError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)

_TIMEOUT = 60.0  # seconds without a byte
_HASH_IN_NAME = re.compile(r".*-([0-9a-f]{8,64})\.[a-z]+")


def find_weights(source: str, folder: str | Path) -> Path:
    """Return the path of a file of weights, fetched if need be.

    Args:
      source: a path; or a name in `PUBLISHED`; or "hf:OWNER/REPOSITORY/FILE" of the
        Hugging Face hub, with "@REVISION" behind it if wanted.
      folder: where fetched files are kept.

    Raises:
      ValueError: there is no such file, it cannot be fetched, or what was fetched is
        not what its name says.
    """
    if source.startswith("hf:"):
        return _from_hugging_face(source, folder)
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if source not in PUBLISHED:
        raise ValueError(
            f"there is no file of weights {source!r}, and it is no name of published "
            f"ones either; those are {', '.join(PUBLISHED)}, and hf:OWNER/REPO/FILE"
        )
    path = Path(folder).expanduser() / PUBLISHED[source]
    if not path.is_file():
        fetch(ADDRESS + path.name, path)
    return path


def fetch(address: str, path: Path) -> None:
    """Fetch a file whose name ends in the first digits of its SHA-256.

    It appears under its name only when it is whole and right.

    Raises:
      ValueError: it cannot be reached, or it is another one.
    """
    wanted = _HASH_IN_NAME.fullmatch(path.name)
    if wanted is None:
        raise ValueError(f"{path.name} does not have its checksum in its name")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of its own, because several processes may fetch at once.
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            with urllib.request.urlopen(address, timeout=_TIMEOUT) as response:
                shutil.copyfileobj(response, file)
        with open(partial, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if not found.startswith(wanted[1]):
            raise ValueError(
                f"what came from {address} is not that file: its SHA-256 begins with "
                f"{found[: len(wanted[1])]}, not with {wanted[1]}. Nothing was kept; "
                "try again, or fetch it by other means and give its path"
            )
        os.replace(partial, path)
    except (urllib.error.URLError, OSError, EOFError) as error:
        raise ValueError(
            f"{address} cannot be fetched ({error}). Without a network, put the file "
            f"at {path}"
        ) from error
    finally:
        Path(partial).unlink(missing_ok=True)


def _from_hugging_face(source: str, folder: str | Path) -> Path:
    found = re.fullmatch(r"hf:([^/@]+/[^/@]+)/([^@]+)(?:@(.+))?", source)
    if found is None:
        raise ValueError(
            f"{source!r} is not of the form hf:OWNER/REPOSITORY/FILE or "
            "hf:OWNER/REPOSITORY/FILE@REVISION"
        )
    repository, name, revision = found.groups()
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise ValueError(
            f"{source} needs the package huggingface_hub: pip install huggingface-hub"
        ) from error
    folder = Path(folder).expanduser()
    try:
        return Path(
            hf_hub_download(repository, name, revision=revision, cache_dir=folder)
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{source} cannot be fetched: {error}") from error


def read_weights(path: str | Path) -> dict[str, np.ndarray]:
    """Return the tensors of a .npz, .safetensors or torch file by name.

    A file that is called by its checksum, as torchvision's are, is checked against it.

    Raises:
      ValueError: the file is of another kind, damaged, or not the one it says.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in (".pth", ".pt"):
        _check_name(path)
        return read_torch_file(path)
    if suffix == ".npz":
        return _read_npz(path)
    if suffix == ".safetensors":
        return _read_safetensors(path)
    raise ValueError(
        f"{path} is not a file of weights that can be read: its name must end in .pth, "
        ".pt, .npz or .safetensors"
    )


def write_weights(
    path: str | Path,
    tensors: Mapping[str, np.ndarray],
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write a .safetensors file, which appears under its name only when it is whole.

    Args:
      path: where.
      tensors: arrays by name.
      notes: metadata of the file; `read_notes` gives it back.
    """
    from safetensors.numpy import save_file

    path = Path(path)
    partial = path.with_suffix(".partial")
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    save_file(arrays, partial, dict(notes or {}))
    # It makes a file that nobody else may read.
    forbidden = os.umask(0)
    os.umask(forbidden)
    partial.chmod(0o666 & ~forbidden)
    partial.replace(path)


def read_notes(path: str | Path) -> dict[str, str]:
    """Return the metadata of a .safetensors file; {} of any other file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as stored:
            return dict(stored.metadata() or {})
    except (OSError, SafetensorError):
        return {}


def _check_name(path: Path) -> None:
    """Refuse a file of `PUBLISHED` whose contents are others."""
    if path.name not in PUBLISHED.values():
        return
    wanted = _HASH_IN_NAME.fullmatch(path.name)[1]
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(wanted):
        raise ValueError(
            f"{path} is damaged or another file: its SHA-256 begins with "
            f"{found[: len(wanted)]}, not with {wanted}. Delete it and fetch it once "
            "more"
        )


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return dict(stored)
    except _NPZ_ERRORS as error:
        raise ValueError(
            f"{path} is cut short, damaged, or not an .npz file: {error}"
        ) from error


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError as error:
        raise ValueError(
            f"{path} needs the package safetensors: pip install safetensors"
        ) from error
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path} is cut short, damaged, or not a .safetensors file: {error}"
        ) from error
