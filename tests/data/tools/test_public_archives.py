"""The archives of COCO and ADE20K: their sums, and what builders read out of them."""

import hashlib
import json
import pathlib

import cv2
import numpy as np
import tensorflow_datasets as tfds
from archive_server import zipped
from coco_files import noise_png
from tensorflow_datasets.core.download import checksums

from agvm_jax.data.dataset import open_dataset
from agvm_jax.data.tools import download


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
