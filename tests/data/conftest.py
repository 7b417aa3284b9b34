"""A tiny COCO folder, the config section that opens it, and a server of archives."""

import hashlib
import http.server
import threading

import pytest
from archive_server import FILES, Handler
from coco_files import annotation, noise_png

from agvm_jax.data.tools import download
from agvm_jax.data.tools.download import Archive
from benchmarks.coco_writer import write_split
from configs import base


@pytest.fixture
def data_config(tmp_path):
    """Section `data`, with a cache of its own and little to prepare."""
    config = base.get_config().data
    config.cache_dir = str(tmp_path / "cache")
    config.shapes.train_images = 10
    config.shapes.val_images = 5
    config.shapes.image_size = (64, 48)
    config.num_threads = 2
    return config


@pytest.fixture
def write_coco(tmp_path, data_config):
    """A function that writes a COCO folder and returns the config to open it.

    Images are PNG of random pixels, named as the entries say; `train` and `val` are
    dictionaries in COCO's form. `skip` names images that are not written, `pictures`
    has encoded ones by their names.
    """

    def write(train, val=None, skip=(), pictures=None):
        root = tmp_path / "set"
        for split, content in (("train", train), ("val", val or train)):
            encoded = pictures or {
                entry["file_name"]: noise_png(entry.get("height"), entry.get("width"))
                for entry in content["images"]
                if entry["file_name"] not in skip
            }
            file = root / f"instances_{split}.json"
            write_split(file, root / split, content, encoded)
        data_config.name = "coco_folder"
        data_config.root = str(root)
        return data_config

    return write


@pytest.fixture
def two_images():
    """A COCO dictionary: two images, holes in the category ids, a crowd region."""
    return {
        "images": [
            {"id": 7, "file_name": "a b.png", "height": 20, "width": 30},
            {"id": 3, "file_name": "ünï/zwei.png", "height": 16, "width": 12},
        ],
        "annotations": [
            annotation(11, 7, 90, [1, 2, 10, 5]),
            annotation(12, 7, 4, [0, 0, 30, 20], iscrowd=1),
            annotation(13, 3, 4, [2, 2, 4, 4]),
        ],
        "categories": [{"id": 90, "name": "zebra"}, {"id": 4, "name": "ape"}],
    }


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    one = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    one.daemon_threads = True
    one.files, one.asked, one.cut, one.wait = dict(FILES), [], set(), set()
    one.released = threading.Event()
    # Looks often whether it is to stop, so that the end of a test need not wait.
    thread = threading.Thread(target=one.serve_forever, args=(0.01,))
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


@pytest.fixture
def augmenting(data_config):
    data_config.scale_range = (0.5, 1.5)
    data_config.max_boxes = 6
    return data_config
