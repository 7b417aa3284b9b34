"""Fetching archives, from a server on this machine: whole, or one sentence."""

import hashlib
import http.server
import io
import json
import pathlib
import subprocess
import sys
import threading
import time
import zipfile

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from coco_files import noise_png
from tensorflow_datasets.core.download import checksums

from agvm_jax.data import archives, download
from agvm_jax.data.dataset import open_dataset
from agvm_jax.data.download import Archive
from agvm_jax.data.errors import DataError

ROOT = pathlib.Path(__file__).parents[2]


def zipped(files):
    """A zip archive of name -> content as bytes; folders are listed as in COCO's."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as content:
        content.writestr("train/", "")
        for name, data in files.items():
            content.writestr(name, data)
    return buffer.getvalue()


IMAGES = zipped({f"train/{i} ü.jpg": bytes([i]) * 9000 for i in range(5)})
LABELS = zipped(
    {
        "notes/train.json": b"{}",
        "notes/other.json": b"not wanted",
        "notes/panoptic.zip": zipped({"panoptic/1.png": b"png"}),
    }
)
FILES = {"/images.zip": IMAGES, "/labels.zip": LABELS}


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `files`; those in `cut` stop in the middle, those in `wait` hang there."""

    def do_GET(self):
        self.server.asked.append(self.path)
        data = self.server.files.get(self.path)
        if data is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.path in self.server.cut:
            data = data[: len(data) // 2]
        self.wfile.write(data[: len(data) // 2])
        self.wfile.flush()
        if self.path in self.server.wait:
            self.server.released.wait(60)
            return
        self.wfile.write(data[len(data) // 2 :])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    one = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    one.daemon_threads = True
    one.files, one.asked, one.cut, one.wait = dict(FILES), [], set(), set()
    one.released = threading.Event()
    thread = threading.Thread(target=one.serve_forever)
    thread.start()
    yield one
    one.released.set()
    one.shutdown()
    thread.join()
    one.server_close()


@pytest.fixture
def fetch(server, tmp_path):
    """A function that downloads both archives to `tmp_path`/set."""
    base = f"http://127.0.0.1:{server.server_port}"
    table = tmp_path / "checksums.tsv"
    table.write_text(
        "\n".join(
            f"{base}{path}\t{len(data)}\t{hashlib.sha256(data).hexdigest()}\t{path[1:]}"
            for path, data in FILES.items()
        )
    )
    wanted = (
        Archive(
            f"{base}/labels.zip",
            {
                "notes/train.json": "notes/train.json",
                "notes/panoptic.zip/": "notes/panoptic",
            },
        ),
        Archive(f"{base}/images.zip", {"train/": "train"}),
    )

    def run(**options):
        download.download(wanted, tmp_path / "set", checksum_file=table, **options)

    return run


def contents(folder):
    """Name -> content of everything below a folder that is not hidden."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not str(path.relative_to(folder)).startswith(".")
    }


WHOLE = {
    "notes/train.json": b"{}",
    "notes/panoptic/1.png": b"png",
    **{f"train/{i} ü.jpg": bytes([i]) * 9000 for i in range(5)},
}


def test_archives_are_fetched_checked_and_unpacked(fetch, tmp_path, server):
    fetch()
    assert contents(tmp_path / "set") == WHOLE
    assert sorted(server.asked) == ["/images.zip", "/labels.zip"]
    # Neither archives nor anything half done is left behind.
    assert [p.name for p in (tmp_path / "set").glob(".*")] == [".download.lock"]


def test_what_is_there_is_not_fetched_again(fetch, tmp_path, server):
    fetch()
    (tmp_path / "set" / "notes" / "train.json").unlink()
    server.asked.clear()
    fetch()
    assert server.asked == ["/labels.zip"] and contents(tmp_path / "set") == WHOLE
    fetch()
    assert server.asked == ["/labels.zip"]


def test_archives_are_kept_when_asked_for(fetch, tmp_path, server):
    fetch(keep_archives=True)
    kept = {p.read_bytes() for p in (tmp_path / "set" / ".downloads").glob("*.zip")}
    assert kept == {IMAGES, LABELS}
    (tmp_path / "set" / "notes" / "train.json").unlink()
    fetch(keep_archives=True)
    assert len(server.asked) == 2 and contents(tmp_path / "set") == WHOLE


def test_a_wrong_checksum_is_one_sentence_and_nothing_is_used(fetch, tmp_path, server):
    server.files["/images.zip"] = IMAGES[:-1] + b"x"
    with pytest.raises(DataError, match="images.zip is not the file that it should be"):
        fetch()
    assert not (tmp_path / "set" / "train").exists()
    assert not list((tmp_path / "set" / ".downloads").glob("*images*"))
    server.files["/images.zip"] = IMAGES
    fetch()
    assert contents(tmp_path / "set") == WHOLE
    assert server.asked.count("/labels.zip") == 1


def test_a_connection_that_breaks_is_one_sentence_and_the_next_run_goes_on(
    fetch, tmp_path, server
):
    server.cut.add("/images.zip")
    with pytest.raises(DataError, match="images.zip (could not be|is not the file)"):
        fetch()
    assert not (tmp_path / "set" / "train").exists()
    assert not list((tmp_path / "set" / ".downloads").glob("*images*"))
    server.cut.clear()
    fetch()
    assert contents(tmp_path / "set") == WHOLE
    assert server.asked.count("/labels.zip") == 1


def test_a_url_that_is_not_there_names_the_other_way(fetch, server):
    del server.files["/labels.zip"]
    with pytest.raises(
        DataError, match="labels.zip could not be fetched .*404.*manual"
    ):
        fetch()


def test_archives_of_a_manual_folder_are_checked_used_and_left_alone(
    fetch, tmp_path, server
):
    manual = tmp_path / "by hand"
    manual.mkdir()
    with pytest.raises(DataError, match="none of labels.zip, images.zip in .*by hand"):
        fetch(manual=manual)
    (manual / "images.zip").write_bytes(IMAGES[:-5])
    with pytest.raises(DataError, match="by hand/images.zip is not the file"):
        fetch(manual=manual)
    (manual / "images.zip").write_bytes(IMAGES)
    server.asked.clear()
    fetch(manual=manual)
    assert contents(tmp_path / "set") == WHOLE
    assert "/images.zip" not in server.asked
    assert (manual / "images.zip").read_bytes() == IMAGES


def test_a_process_that_is_killed_leaves_nothing_that_looks_finished(
    fetch, tmp_path, server
):
    """SIGKILL in the middle of an archive; the next run fetches that one anew."""
    server.wait.add("/images.zip")
    base = f"http://127.0.0.1:{server.server_port}"
    code = (
        "import sys\n"
        "from agvm_jax.data.download import Archive, download\n"
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


def test_every_archive_has_its_sum_and_its_parts_are_what_the_builders_read():
    infos = checksums.load_url_infos(download._CHECKSUMS)
    listed = (*download.COCO, *download.COCO_PANOPTIC, *download.ADE20K)
    assert {archive.url for archive in listed} == set(infos)
    for archive in listed:
        info = infos[archive.url]
        assert len(info.checksum) == 64 and info.size > 10**8
        assert archive.url.endswith(f"/{info.filename}")
    places = {place for archive in listed for place in archive.parts.values()}
    assert places == {
        "annotations/instances_train2017.json",
        "annotations/instances_val2017.json",
        "train2017",
        "val2017",
        "annotations/panoptic_train2017.json",
        "annotations/panoptic_val2017.json",
        "annotations/panoptic_train2017",
        "annotations/panoptic_val2017",
        "images",
        "annotations",
        "objectInfo150.txt",
    }


def test_what_the_archives_of_coco_hold_can_be_opened(
    tmp_path, data_config, two_images
):
    """Archives of the same names and inner layout, made here."""
    for image in two_images["images"]:
        image["file_name"] = f"{image['id']}.png"
    segments = [{"id": 5, "category_id": 50}]
    panoptic = {
        "annotations": [
            {"image_id": i, "file_name": f"{i}.png", "segments_info": segments}
            for i in (7, 3)
        ],
        "categories": [
            *({**c, "isthing": 1} for c in two_images["categories"]),
            {"id": 50, "name": "sky", "isthing": 0},
        ],
    }
    sizes = {7: (20, 30), 3: (16, 12)}
    pngs = {
        i: cv2.imencode(".png", np.full((*size, 3), (0, 0, 5), np.uint8))[1].tobytes()
        for i, size in sizes.items()
    }
    splits = ("train2017", "val2017")
    made = {
        **{
            f"{split}.zip": zipped(
                {f"{split}/{i}.png": noise_png(*size) for i, size in sizes.items()}
            )
            for split in splits
        },
        "annotations_trainval2017.zip": zipped(
            {f"annotations/instances_{s}.json": json.dumps(two_images) for s in splits}
        ),
        "panoptic_annotations_trainval2017.zip": zipped(
            {f"annotations/panoptic_{s}.json": json.dumps(panoptic) for s in splits}
            | {
                f"annotations/panoptic_{s}.zip": zipped(
                    {f"panoptic_{s}/{i}.png": png for i, png in pngs.items()}
                )
                for s in splits
            }
        ),
    }
    listed, lines = (*download.COCO, *download.COCO_PANOPTIC), []
    for archive in listed:
        name = archive.url.rpartition("/")[2]
        (tmp_path / name).write_bytes(made[name])
        digest = hashlib.sha256(made[name]).hexdigest()
        lines.append(f"{archive.url}\t{len(made[name])}\t{digest}\t{name}")
    (tmp_path / "sums.tsv").write_text("\n".join(lines))
    download.download(
        listed, tmp_path / "coco", manual=tmp_path, checksum_file=tmp_path / "sums.tsv"
    )
    data_config.name, data_config.root = "coco", str(tmp_path / "coco")
    data_config.semantic = "all"
    dataset = open_dataset(data_config)
    assert len(dataset.train) == len(dataset.val) == 2
    assert dataset.label_names("all") == ("ape", "zebra", "sky")


def test_tensorflow_datasets_own_table_says_the_same_of_coco():
    ours = checksums.load_url_infos(download._CHECKSUMS)
    package = pathlib.Path(tfds.__file__).parent
    theirs = checksums.load_url_infos(package / "url_checksums" / "coco.txt")
    known = [archive.url for archive in (*download.COCO, *download.COCO_PANOPTIC)]
    assert all(theirs[url] == ours[url] for url in known)


def test_the_command_says_what_to_do_next_or_what_is_wrong(
    fetch, tmp_path, monkeypatch, capsys
):
    done = []
    monkeypatch.setattr(download, "download", lambda *a, **k: done.append((a, k)))
    assert download.main(["coco", "here", "--panoptic"]) == 0
    assert "--config.data.name=coco --config.data.root=here" in capsys.readouterr().out
    (found, folder), options = done[0]
    assert len(found) == 4 and folder == "here" and options["manual"] is None

    def refuse(*_, **__):
        raise DataError("no room")

    monkeypatch.setattr(download, "download", refuse)
    assert download.main(["ade20k", "here"]) == 2
    assert capsys.readouterr().err == "error: no room\n"
    with pytest.raises(SystemExit):
        download.main(["ade20k", "here", "--panoptic"])
