"""What formats read of a user's folder: files, listings, JSON: a value or a DataError.

Nobody vouches for these files, so each value of a JSON file is taken with its type and
range checked, and what is wrong is said in one sentence.
"""

import hashlib
import json
import math
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import hotcoco

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.augment.decode import IMAGES

LARGEST = 2**63 - 1  # what an int64 column holds
# Compressed run lengths: six bits a character, the last of which ends its number.
_COUNTS = re.compile("[0-o]*[0-O]")


class Sign(NamedTuple):
    """Whether a folder is of a format, and by what it is known.

    Attributes:
      found: whether it is.
      looked_for: what tells, for people: the same whether it is there or not, so that
        a folder of no format can be told what would make it one.
      wrong: why it is not, although it looks as if it was meant; "": nothing.
    """

    found: bool
    looked_for: str
    wrong: str = ""


def root_of(data_config: Any, remedy: str) -> pathlib.Path:
    """config.data.root, which must be a folder."""
    if not data_config.root:
        raise DataError(f"config.data.root is empty: {remedy}.")
    root = pathlib.Path(data_config.root).expanduser()
    require_folder(root, "data", remedy)
    return root


def require_folder(folder: pathlib.Path, what: str, remedy: str) -> None:
    if not folder.is_dir():
        raise DataError(f"There is no {what} folder {folder}: {remedy}.")


def read_file(path: pathlib.Path, count: int = -1) -> bytes:
    """The file, or its first `count` bytes; DataError where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(count)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None


def digest(*parts: Any) -> str:
    """Hex sha256 of the parts' repr."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def file_digest(path: pathlib.Path) -> str:
    """Hex sha256 of a file's content.

    Raises:
      DataError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None


def listing(folder: pathlib.Path) -> list[tuple[str, int]]:
    """Names and sizes of the files in a folder and in those below it, sorted.

    Names are relative to it, with slashes. Neither the folder's place nor times are in
    it: a data set that is moved or copied stays prepared.

    Raises:
      DataError: the folder cannot be read.
    """
    try:
        return sorted(_walk(folder, "", frozenset()))
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}.") from None


def label_listing(folder: pathlib.Path) -> list[tuple[str, int, bytes]]:
    """The same, and each file's last bytes: label PNGs that may be edited in place.

    An edit may well leave a file's size alone. A PNG ends with checksums: Adler-32 of
    all its pixels, CRC-32 of their last chunk, and 12 bytes that are always the same.

    Raises:
      DataError: the folder or a file in it cannot be read.
    """
    found = []
    try:
        for name, size in listing(folder):
            with open(folder / name, "rb") as file:
                file.seek(max(size - 20, 0))
                found.append((name, size, file.read()))
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}.") from None
    return found


def _walk(
    folder: str | os.PathLike, prefix: str, above: frozenset[tuple[int, int]]
) -> Iterator[tuple[str, int]]:
    """Links are followed, but for one that leads to a folder above itself."""
    stat = os.stat(folder)
    above |= {(stat.st_dev, stat.st_ino)}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_file():
                yield prefix + entry.name, entry.stat().st_size
            elif entry.is_dir():
                stat = os.stat(entry.path)
                if (stat.st_dev, stat.st_ino) not in above:
                    yield from _walk(entry.path, f"{prefix}{entry.name}/", above)


def image_names(folder: pathlib.Path) -> list[str]:
    """Names of the images in a folder and in those below it, by their endings.

    What begins with a dot is left out: systems hide it, and macOS archives hold such a
    file beside every image.
    """
    return [
        name
        for name, _ in listing(folder)
        if pathlib.PurePosixPath(name).suffix.lower() in IMAGES
        and not any(part.startswith(".") for part in name.split("/"))
    ]


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


def finite_numbers(values: Sequence[Any], what: str, path: pathlib.Path) -> list[float]:
    """The values as floats, all of them finite numbers."""
    for value in values:
        if (
            type(value) not in (int, float)
            or not -1e30 < value < 1e30
            or not math.isfinite(value)
        ):
            raise DataError(
                f"{path}: {what} holds {short(value)}, not a finite number."
            )
    return [float(value) for value in values]


def run_lengths(
    segmentation: dict[str, Any], size: list[int], what: str, path: pathlib.Path
) -> dict[str, Any]:
    """COCO run lengths as `Segmentation` has them: compressed, and of that image.

    Args:
      size: the height and width that they must have; zeros where it is not known.
    """
    own, counts = segmentation.get("size"), segmentation.get("counts")
    if (
        not isinstance(own, list)
        or [type(side) for side in own] != [int, int]
        or not all(0 < side < 2**31 for side in own)
    ):
        raise DataError(
            f"{path}: the run lengths of {what} have the size {short(own)}, not"
            " [height, width]."
        )
    if min(size) > 0 and own != size:
        raise DataError(
            f"{path}: the run lengths of {what} are for an image of height and width"
            f" {own}, but its image has {size}."
        )
    try:
        if isinstance(counts, list) and all(type(count) is int for count in counts):
            rle = hotcoco.mask.fr_py_objects({"size": own, "counts": counts}, *own)
            counts = rle["counts"].decode()
        if not isinstance(counts, str) or not _COUNTS.fullmatch(counts):
            raise ValueError
        rle = hotcoco.mask.rle_from_string(counts, *own)
    except (ValueError, TypeError, OverflowError):
        raise DataError(
            f"{path}: the counts of {what} are {short(segmentation.get('counts'))}, not"
            f" run lengths of an image of height and width {own}."
        ) from None
    try:
        # More than the image are refused, and of fewer the rest would be no mask:
        # then they fit an image of one pixel less.
        hotcoco.mask.rle_from_string(counts, 1, own[0] * own[1] - 1)
    except ValueError:
        return rle
    except OverflowError:  # more pixels than hotcoco counts
        pass
    raise DataError(
        f"{path}: the run lengths of {what} do not cover their image of height and"
        f" width {own}."
    )


def check_file_name(name: Any, image_id: int, path: pathlib.Path) -> None:
    """Refuse names that are no names, and names that leave the image folder."""
    if not isinstance(name, str) or not name or "\0" in name or not is_text(name):
        raise DataError(f"{path}: image {image_id} has no usable file_name ({name!r}).")
    if leads_out(name):
        raise DataError(
            f"{path}: image {image_id} is called {name!r}, which leads out of the"
            " image folder; only names inside it are read."
        )


def leads_out(name: str) -> bool:
    """Whether a name leads out of its folder, here or, tomorrow, on Windows."""
    flavours = (pathlib.PurePosixPath(name), pathlib.PureWindowsPath(name))
    return any(pure.anchor or ".." in pure.parts for pure in flavours)


def is_text(name: str) -> bool:
    """Whether a string can be encoded: JSON may hold halves of surrogate pairs."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _kind(value: Any) -> str:
    """The JSON name of a value's type."""
    names = {dict: "object", list: "list", str: "string", bool: "boolean"}
    return names.get(type(value), "null" if value is None else "number")


def short(value: Any) -> str:
    """repr, at most 40 characters."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
