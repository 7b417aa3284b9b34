"""Unpack parts of zip archives: each part appears whole or not at all."""

import os
import pathlib
import shutil
import stat
import zipfile

from tqdm import tqdm

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.formats.files import leads_out


class DamagedArchive(DataError):
    """An archive that cannot be unpacked, however often one tries."""


def unpack_parts(
    archive: pathlib.Path, parts: dict[str, str], folder: pathlib.Path
) -> None:
    """Unpack files and folders of a zip archive.

    Everything is written to a hidden folder first. A part is then renamed to its place,
    so a process that is killed leaves nothing that looks finished; unpacking again does
    what is missing.

    Args:
      archive: the zip file.
      parts: name in the archive -> place in `folder`, for each part that is wanted. A
        name that ends in "/" is a folder; one that ends in ".zip/" is an archive in the
        archive, whose folder of the same name is meant.
      folder: where to; it exists.

    Raises:
      DamagedArchive: it is no zip file, lacks a part, or holds a name that leads out of
        it.
      DataError: there is not enough room.
      OSError: the disk refuses.
    """
    hidden = folder / f".{archive.name}.part"
    for name, place in parts.items():
        target = folder / place
        if target.exists():
            continue
        shutil.rmtree(hidden, ignore_errors=True)  # of a process that was killed
        hidden.mkdir()
        try:
            _unpack_part(archive, name, hidden)
            target.parent.mkdir(parents=True, exist_ok=True)
            (hidden / "part").rename(target)
        except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
            raise DamagedArchive(f"{archive} is damaged: {error}.") from None
        finally:
            shutil.rmtree(hidden, ignore_errors=True)


def _unpack_part(archive: pathlib.Path, name: str, hidden: pathlib.Path) -> None:
    """Write one part to `hidden`/part."""
    with zipfile.ZipFile(archive) as content:
        if name.endswith(".zip/"):
            inner = name.rstrip("/")
            _write_members(content, inner, [_member(content, archive, inner)], hidden)
            (hidden / "part").rename(hidden / "inner.zip")
            stem = pathlib.PurePosixPath(inner).stem
            _unpack_part(hidden / "inner.zip", f"{stem}/", hidden)
        elif name.endswith("/"):
            members = [m for m in content.infolist() if m.filename.startswith(name)]
            members = [m for m in members if not m.is_dir()]
            if not members:
                raise DamagedArchive(f"{archive} holds no folder {name!r}.")
            _write_members(content, name, members, hidden)
        else:
            _write_members(content, name, [_member(content, archive, name)], hidden)


def _member(
    content: zipfile.ZipFile, archive: pathlib.Path, name: str
) -> zipfile.ZipInfo:
    try:
        return content.getinfo(name)
    except KeyError:
        raise DamagedArchive(f"{archive} holds no file {name!r}.") from None


def _write_members(
    content: zipfile.ZipFile,
    name: str,
    members: list[zipfile.ZipInfo],
    hidden: pathlib.Path,
) -> None:
    """Write members, whose names begin with `name`, below `hidden`/part."""
    size = sum(member.file_size for member in members)
    free = shutil.disk_usage(hidden).free
    if size > free:
        raise DataError(
            f"Unpacking {name} takes {size / 1e9:.2f} GB in {hidden.parent}, where"
            f" {free / 1e9:.2f} GB are free; make room, or choose another folder."
        )
    with tqdm(
        total=size,
        desc=f"Unpacking {name}",
        unit="B",
        unit_scale=True,
        delay=0.5,
        disable=None,  # no bar where nobody watches
    ) as bar:
        for member in members:
            rest = member.filename[len(name) :]
            _check_member(member, rest)
            path = hidden / "part" / rest if rest else hidden / "part"
            path.parent.mkdir(parents=True, exist_ok=True)
            with content.open(member) as source, open(path, "wb") as target:
                shutil.copyfileobj(source, target, 2**20)
            bar.update(member.file_size)


def _check_member(member: zipfile.ZipInfo, rest: str) -> None:
    """Refuse names that leave the folder, and links, which may point anywhere."""
    if leads_out(rest):
        raise DamagedArchive(
            f"The archive holds {member.filename!r}, which leads out of it; it is not"
            " the archive that is meant."
        )
    mode = member.external_attr >> 16
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise DamagedArchive(
            f"The archive holds {member.filename!r}, which is no file; it is not the"
            " archive that is meant."
        )


def is_unpacked(parts: dict[str, str], folder: pathlib.Path) -> bool:
    """Whether all parts are in their places."""
    return all(os.path.exists(folder / place) for place in parts.values())
