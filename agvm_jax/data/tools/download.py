"""Fetch COCO 2017 or ADE20K (SceneParse150) into a folder that training can read.

    python -m agvm_jax.data.tools.download coco FOLDER             # 20.4 GB of archives
    python -m agvm_jax.data.tools.download coco FOLDER --panoptic  # and 0.9 GB
    python -m agvm_jax.data.tools.download ade20k FOLDER           # 1.0 GB

Then --config.data.name=coco --config.data.root=FOLDER. TFDS's download manager fetches
the archives and checks their SHA-256. --manual=DIR takes those from there that are
there; they are checked too, and left alone. Started again, the command does what is
missing: an archive that was cut off is fetched anew, one that is whole is not.
"""

import argparse
import dataclasses
import os
import pathlib
import shutil
import sys
from collections.abc import Sequence

import requests
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
from tensorflow_datasets.core.download.util import DownloadError

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.storage.prepare import locked
from agvm_jax.data.tools.archives import DamagedArchive, is_unpacked, unpack_parts

_CHECKSUMS = pathlib.Path(__file__).with_name("url_checksums.tsv")
_WORK = ".downloads"  # in the folder: archives on their way


@dataclasses.dataclass(frozen=True)
class Archive:
    """A zip file at a URL.

    Attributes:
      url: listed in url_checksums.tsv.
      parts: as in `archives.unpack_parts`.
    """

    url: str
    parts: dict[str, str]


_COCO = "http://images.cocodataset.org"
COCO = (
    Archive(
        f"{_COCO}/annotations/annotations_trainval2017.zip",
        {
            name: name
            for name in (
                "annotations/instances_train2017.json",
                "annotations/instances_val2017.json",
            )
        },
    ),
    Archive(f"{_COCO}/zips/val2017.zip", {"val2017/": "val2017"}),
    Archive(f"{_COCO}/zips/train2017.zip", {"train2017/": "train2017"}),
)
COCO_PANOPTIC = (
    Archive(
        f"{_COCO}/annotations/panoptic_annotations_trainval2017.zip",
        {
            f"annotations/panoptic_{split}2017{end}": (
                f"annotations/panoptic_{split}2017{place}"
            )
            for split in ("train", "val")
            for end, place in ((".json", ".json"), (".zip/", ""))
        },
    ),
)
ADE20K = (
    Archive(
        "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
        {
            f"ADEChallengeData2016/{name}": name.rstrip("/")
            for name in ("images/", "annotations/", "objectInfo150.txt")
        },
    ),
)


def download(
    archives: Sequence[Archive],
    folder: str | os.PathLike,
    *,
    manual: str | os.PathLike | None = None,
    keep_archives: bool = False,
    checksum_file: str | os.PathLike = _CHECKSUMS,
) -> None:
    """Fetch, check and unpack archives, one after the other.

    Args:
      archives: what to fetch; those whose parts are all in their places are not.
      folder: where to; made where it is absent.
      manual: a folder that holds some of the archives; the others are fetched.
      keep_archives: leave fetched archives in `folder`/.downloads.
      checksum_file: in TFDS's form.

    Raises:
      DataError: one sentence on what went wrong; what looks finished is.
    """
    folder = pathlib.Path(folder).expanduser()
    infos = checksums.load_url_infos(checksum_file)
    if manual is not None:
        manual = pathlib.Path(manual).expanduser()
        names = [infos[archive.url].filename for archive in archives]
        if not any((manual / name).is_file() for name in names):
            raise DataError(
                f"There is none of {', '.join(names)} in {manual}: put one there, or"
                " leave out --manual."
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".download.lock", f"downloading to {folder}"):
            for archive in archives:
                if not is_unpacked(archive.parts, folder):
                    path = _fetch(archive.url, infos, folder, manual)
                    fetched = path.is_relative_to(folder / _WORK)
                    try:
                        unpack_parts(path, archive.parts, folder)
                    except DamagedArchive:
                        if fetched:  # the next run fetches it anew
                            path.unlink()
                        raise
                    if fetched and not keep_archives:
                        path.unlink()
            if not keep_archives:
                shutil.rmtree(folder / _WORK, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"The archives could not be written to {folder}"
            f" ({error.strerror or error}); what is whole is kept. Make room or choose"
            " another folder, and start again."
        ) from error


def _fetch(
    url: str,
    infos: dict[str, checksums.UrlInfo],
    folder: pathlib.Path,
    manual: pathlib.Path | None,
) -> pathlib.Path:
    """The archive of a URL, whole: from `manual`, from an earlier run, or fetched."""
    info, work = infos[url], folder / _WORK
    for rest in work.glob("*.tmp.*"):  # cut off; nobody else is at it, by the lock
        shutil.rmtree(rest, ignore_errors=True)
    own = manual is not None and (manual / info.filename).is_file()
    manager = tfds.download.DownloadManager(
        download_dir=work,
        manual_dir=manual,
        url_infos={url: info},
        force_checksums_validation=True,
    )
    there = own or any(f.stat().st_size == info.size for f in work.glob("*.zip"))
    free = shutil.disk_usage(folder).free
    if not there and info.size > free:
        raise DataError(
            f"{info.filename} takes {info.size / 1e9:.2f} GB in {folder}, where"
            f" {free / 1e9:.2f} GB are free; make room, or choose another folder."
        )
    try:
        return pathlib.Path(manager.download(url))
    except NonMatchingChecksumError:
        where = manual / info.filename if own else url
        raise DataError(
            f"{where} is not the file that it should be: its size or its SHA-256 is not"
            f" {info.size} bytes and {info.checksum}. It is damaged, or another"
            " version; nothing of it was used. Fetch it again."
        ) from None
    except (requests.RequestException, DownloadError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{url} could not be fetched ({reason}). Start again later, or fetch it by"
            " other means and say --manual=DIR."
        ) from None
    finally:
        for rest in work.glob("*.tmp.*"):
            shutil.rmtree(rest, ignore_errors=True)


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0, or 2 with one sentence."""
    parser = argparse.ArgumentParser(
        prog="python -m agvm_jax.data.tools.download",
        description=__doc__.splitlines()[0],
    )
    parser.add_argument("name", choices=("coco", "ade20k"))
    parser.add_argument("folder", help="where to")
    parser.add_argument("--panoptic", action="store_true", help="COCO's too")
    parser.add_argument("--manual", help="a folder that holds the archives")
    parser.add_argument("--keep-archives", action="store_true")
    options = parser.parse_args(arguments)
    archives = ADE20K if options.name == "ade20k" else COCO
    if options.panoptic:
        if options.name != "coco":
            parser.error("--panoptic is of coco")
        archives += COCO_PANOPTIC
    try:
        download(
            archives,
            options.folder,
            manual=options.manual,
            keep_archives=options.keep_archives,
        )
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        sys.stderr.flush()
        os._exit(130)  # TFDS's threads would go on to the end of their archive
    print(
        f"complete: --config.data.name={options.name}"
        f" --config.data.root={options.folder}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
