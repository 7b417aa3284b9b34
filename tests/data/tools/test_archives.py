"""Unpacking archives: whatever goes wrong, nothing half done looks finished."""

import io
import pathlib
import subprocess
import sys
import time
import zipfile

import pytest
from archive_server import IMAGES, LABELS, WHOLE, contents, zipped

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.tools import archives

ROOT = pathlib.Path(__file__).parents[3]


def test_a_process_that_is_killed_leaves_nothing_that_looks_finished(
    fetch, tmp_path, server
):
    """SIGKILL in the middle of an archive; the next run fetches that one anew."""
    server.wait.add("/images.zip")
    base = f"http://127.0.0.1:{server.server_port}"
    code = (
        "import sys\n"
        "from agvm_jax.data.tools.download import Archive, download\n"
        f"download([Archive({base + '/labels.zip'!r}, {{'notes/train.json':"
        f" 'notes/train.json', 'notes/panoptic.zip/': 'notes/panoptic'}}),"
        f" Archive({base + '/images.zip'!r}, {{'train/': 'train'}})],"
        f" {str(tmp_path / 'set')!r},"
        f" checksum_file={str(tmp_path / 'checksums.tsv')!r})"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 90
    while not list((tmp_path / "set" / ".downloads").glob("*images*.tmp.*/*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert not (tmp_path / "set" / "train").exists()
    assert (tmp_path / "set" / "notes" / "train.json").exists()
    server.released.set()
    server.wait.clear()
    fetch()
    assert contents(tmp_path / "set") == WHOLE
    assert server.asked == ["/labels.zip", "/images.zip", "/images.zip"]
    assert [p.name for p in (tmp_path / "set").glob(".*")] == [".download.lock"]


def test_an_interrupted_unpacking_is_invisible_and_done_again(
    fetch, tmp_path, server, monkeypatch
):
    real, count = archives._check_member, []

    def fail(member, rest):
        count.append(rest)
        if len(count) == 5:
            raise KeyboardInterrupt
        real(member, rest)

    with monkeypatch.context() as patch:
        patch.setattr(archives, "_check_member", fail)
        with pytest.raises(KeyboardInterrupt):
            fetch()
    assert not (tmp_path / "set" / "train").exists()
    fetch()
    assert contents(tmp_path / "set") == WHOLE
    assert server.asked == ["/labels.zip", "/images.zip"]  # fetched once


def test_a_full_disk_is_one_sentence(fetch, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(
            archives.shutil, "disk_usage", lambda _: type("D", (), {"free": 100})
        )
        with pytest.raises(DataError, match="labels.zip takes 0.00 GB .*make room"):
            fetch()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(archives.shutil, "copyfileobj", full)
        with pytest.raises(DataError, match="No space left on device.*start again"):
            fetch()
    assert contents(tmp_path / "set") == {}
    fetch()
    assert contents(tmp_path / "set") == WHOLE


def linked():
    """An archive whose member is a symbolic link to /etc."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as content:
        member = zipfile.ZipInfo("train/link")
        member.external_attr = 0o120777 << 16
        content.writestr(member, "/etc")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"no archive", "is damaged"),
        (IMAGES[:-40], "is damaged"),
        (LABELS, "holds no folder 'train/'"),
        (zipped({"train/../../x": b""}), "leads out of it"),
        (zipped({"train//etc/x": b""}), "leads out of it"),
        (zipped({"train/..\\x": b""}), "leads out of it"),
        (linked(), "'train/link', which is no file"),
    ],
)
def test_an_archive_that_is_not_what_it_should_be_is_refused(data, words, tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(data)
    folder = tmp_path / "set"
    folder.mkdir()
    with pytest.raises(DataError, match=words):
        archives.unpack_parts(path, {"train/": "train"}, folder)
    assert list(folder.iterdir()) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip", "set"]


def test_a_missing_file_of_an_archive_is_named(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(LABELS)
    with pytest.raises(DataError, match="holds no file 'notes/val.json'"):
        archives.unpack_parts(path, {"notes/val.json": "val.json"}, tmp_path)


def test_a_damaged_archive_that_was_fetched_is_fetched_anew(fetch, tmp_path, server):
    """On the disk it may break after its sum was checked."""
    fetch(keep_archives=True)
    (tmp_path / "set" / "notes" / "train.json").unlink()
    for path in (tmp_path / "set" / ".downloads").glob("*labels*.zip"):
        path.write_bytes(b"overwritten")
    with pytest.raises(DataError, match="is damaged"):
        fetch(keep_archives=True)
    fetch()
    assert contents(tmp_path / "set") == WHOLE
    assert server.asked.count("/labels.zip") == 2
