"""Boxes are on the pixels that were annotated, whichever way up a file is stored."""

import io
import pathlib
import shutil
import struct
import zlib

import numpy as np
import pytest
from coco_files import annotation
from PIL import Image, ImageOps

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.augment.augmentation import still_placement
from agvm_jax.data.augment.decode import (
    Annotated,
    Head,
    decide_turns,
    decode_image,
    jpeg_divisor,
    read_head,
    turn,
)
from agvm_jax.data.dataset import open_dataset
from agvm_jax.data.pipeline import eval_batches

# How to store a picture that is to be seen upright under each orientation.
UNDO = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
BOX = (8, 4, 24, 12)  # x1 y1 x2 y2 of the only bright thing in a picture


def encode(pixels, orientation=1, kind="JPEG"):
    """The pixels, stored as they are, with a note on how to turn them."""
    picture = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[274] = orientation
    extra = {"tiffinfo": {274: orientation}} if kind == "TIFF" else {"exif": exif}
    file = io.BytesIO()
    picture.save(file, kind, quality=98, lossless=True, **extra)
    return file.getvalue()


def scene(height=32, width=48):
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 255
    return pixels


def stored(pixels, orientation):
    """The file that a camera held the wrong way makes of what is to be seen."""
    if orientation > 1:
        pixels = np.asarray(Image.fromarray(pixels).transpose(UNDO[orientation]))
    return encode(pixels, orientation)


def bright_box(batch, row=0):
    """The bounds of the bright pixels of a row."""
    y, x = np.nonzero(batch.image[row, ..., 0] > 127)
    return [x.min(), y.min(), x.max() + 1, y.max() + 1]


def only_batch(config, size=(48, 48)):
    dataset = open_dataset(config)
    (batch,) = eval_batches(
        dataset.val, image_size=size, batch_size=len(dataset.val), data_config=config
    )
    return batch, dataset


@pytest.mark.parametrize("code", range(1, 9))
def test_a_turn_is_pillows(code):
    pixels = np.random.default_rng(code).integers(0, 256, (4, 6, 3), np.uint8)
    picture = Image.open(io.BytesIO(encode(pixels, code, "PNG")))
    np.testing.assert_array_equal(
        turn(pixels, code), np.asarray(ImageOps.exif_transpose(picture))
    )


@pytest.mark.parametrize("code", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_every_format_gives_the_stored_and_the_turned_pixels(kind, code, tmp_path):
    """TIFF too, which OpenCV turns whatever it is asked."""
    pixels = np.random.default_rng(code).integers(0, 256, (4, 6, 3), np.uint8)
    path = tmp_path / "x"
    path.write_bytes(encode(pixels, code, kind))
    head = read_head(path)
    for turned, expected in ((False, pixels), (True, turn(pixels, code))):
        decoded = decode_image(
            path.read_bytes(), head.seen(turned), turn_code=head.turn(turned)
        )
        np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize("data", [b"", b"no image", b"\xff\xd8\xff\xd9", bytes(99)])
def test_what_is_no_image_has_no_head(data):
    assert read_head(io.BytesIO(data)) is None


def test_a_strange_orientation_is_none_and_a_huge_picture_has_a_head():
    pixels = np.zeros((2, 2, 3), np.uint8)
    assert read_head(io.BytesIO(encode(pixels, 9))) == Head((2, 2))
    data = bytearray(encode(pixels, kind="PNG"))
    data[16:24] = struct.pack(">II", 20001, 20000)  # past Pillow's limit
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    assert read_head(io.BytesIO(data)).size == (20000, 20001)


def write_yolo(root, files):
    for split in ("train", "val"):
        (root / "images" / split).mkdir(parents=True)
        (root / "labels" / split).mkdir(parents=True)
        for name, (data, (height, width)) in files.items():
            (root / "images" / split / f"{name}.jpg").write_bytes(data)
            x1, y1, x2, y2 = BOX
            numbers = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
            shares = np.divide(numbers, (width, height, width, height))
            line = "0 " + " ".join(f"{share:.6f}" for share in shares)
            (root / "labels" / split / f"{name}.txt").write_text(line)
    (root / "data.yaml").write_text("names: [bright]")


def test_yolos_boxes_are_of_the_turned_picture(tmp_path, data_config):
    """Those of orientation 2 and 3, and squares of 6, look alike stored and turned."""
    files = {
        f"{code} {size}": (stored(scene(*size), code), size)
        for code in range(1, 9)
        for size in ((32, 48), (48, 48))
    }
    write_yolo(tmp_path, files)
    data_config.name, data_config.root = "yolo", str(tmp_path)
    batch, dataset = only_batch(data_config)
    for row, name in enumerate(sorted(files)):
        assert bright_box(batch, row) == list(BOX), name
        np.testing.assert_allclose(batch.boxes[row, 0], BOX, atol=1e-4)
    assert "14 images turned as their EXIF data say" in "\n".join(dataset.report)


def test_yolos_boxes_may_be_of_the_stored_picture_by_a_key(tmp_path, data_config):
    write_yolo(tmp_path, {"a": (encode(scene(), 3), (32, 48))})
    data_config.name, data_config.root = "yolo", str(tmp_path)
    data_config.exif_turns = "ignored"
    batch, dataset = only_batch(data_config)
    assert bright_box(batch) == list(BOX)
    assert "1 images with an EXIF turn used as they are" in "\n".join(dataset.report)
    data_config.exif_turns = "sometimes"
    with pytest.raises(DataError, match="exif_turns is 'sometimes'; it must be auto, "):
        open_dataset(data_config)


def write_coco_scenes(write_coco, files):
    """A COCO folder of files, each (data, annotated height and width)."""
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "height": height, "width": width}
            for i, (_, (height, width)) in enumerate(files)
        ],
        "annotations": [
            annotation(i + 1, i, 1, [BOX[0], BOX[1], 16, 8]) for i in range(len(files))
        ],
        "categories": [{"id": 1, "name": "bright"}],
    }
    return write_coco(
        content, pictures={f"{i}.jpg": data for i, (data, _) in enumerate(files)}
    )


def test_cocos_boxes_are_of_the_stored_picture(write_coco):
    config = write_coco_scenes(write_coco, [(encode(scene(), 3), (32, 48))])
    root = pathlib.Path(config.root)
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        (root / split).rename(root / f"{split}2017")
        (root / f"instances_{split}.json").rename(
            root / "annotations" / f"instances_{split}2017.json"
        )
    config.name = "coco"
    batch, dataset = only_batch(config)
    assert bright_box(batch) == list(BOX)
    assert "1 images with an EXIF turn used as they are" in "\n".join(dataset.report)


@pytest.mark.parametrize("followed", [True, False])
def test_in_a_folder_images_whose_size_tells_speak_for_the_others(followed, write_coco):
    make = stored if followed else encode
    files = [
        (make(scene(), 6), (32, 48)),  # only right in one way
        (make(scene(), 3), (32, 48)),
        (make(scene(48, 48), 8), (48, 48)),
        (make(scene(), 1), (32, 48)),
    ]
    batch, dataset = only_batch(write_coco_scenes(write_coco, files))
    assert [bright_box(batch, row) for row in range(4)] == [list(BOX)] * 4
    report = dataset.val.report
    counts = (3, 0) if followed else (0, 3)
    assert (report.turned_images, report.unturned_images) == counts


@pytest.mark.parametrize(
    ("key", "make"), [("auto", encode), ("ignored", encode), ("applied", stored)]
)
def test_in_a_folder_where_no_size_tells_a_key_does(key, make, write_coco):
    config = write_coco_scenes(write_coco, [(make(scene(), 3), (32, 48))])
    config.exif_turns = key
    batch, _ = only_batch(config)
    assert bright_box(batch) == list(BOX)


def test_a_set_that_is_divided_is_read_in_one_way(write_coco):
    """Though the only image whose size tells is in one of the parts."""
    files = [(stored(scene(), 6), (32, 48)), *[(stored(scene(), 3), (32, 48))] * 3]
    config = write_coco_scenes(write_coco, files)
    shutil.rmtree(pathlib.Path(config.root) / "val")
    (pathlib.Path(config.root) / "instances_val.json").unlink()
    config.val_share = 0.5
    dataset = open_dataset(config)
    for source in (dataset.train, dataset.val):
        assert (source.report.turned_images, source.report.unturned_images) == (2, 0)


def test_sizes_that_a_folder_leaves_out_are_of_the_picture_that_is_used(write_coco):
    for key, size in (("ignored", [48, 32]), ("applied", [32, 48])):
        files = [(stored(scene(), 6), (None, None))]
        config = write_coco_scenes(write_coco, files)
        config.exif_turns = key
        source = open_dataset(config).val
        assert [source[0]["height"], source[0]["width"]] == size
        entry = source.ground_truth()["images"][0]
        assert [entry["height"], entry["width"]] == size


def test_a_size_that_fits_neither_way_decides_nothing(tmp_path):
    for name, code in (("a", 6), ("b", 6), ("c", 3)):
        (tmp_path / name).write_bytes(encode(scene(), code))
    sizes = np.array([[48, 32], [9, 9], [32, 48]])
    files = [tmp_path / name for name in "abc"]
    turns = decide_turns(files, sizes, Annotated.STORED)
    assert turns.codes.tolist() == [6, 1, 1]  # a's size fits when it is turned
    assert turns.turned.tolist() == [True, False, False]
    assert decide_turns(files, sizes, Annotated.LIKE_OTHERS).codes.tolist() == [6, 6, 3]
    np.testing.assert_array_equal(turns.sizes, sizes)


@pytest.mark.parametrize("code", [3, 6])
def test_a_turned_jpeg_is_decoded_small_where_that_divides_it(code):
    """Else the share of a pixel at its end would come to its beginning."""
    assert jpeg_divisor(b"\xff\xd8", (64, 96), (4, 6), code) == 8
    assert jpeg_divisor(b"\xff\xd8", (68, 100), (4, 6), code) == 4
    assert jpeg_divisor(b"\xff\xd8", (65, 96), (4, 6), code) == 1
    pixels = np.zeros((136, 200, 3), np.uint8)
    pixels[40:72, 24:120] = 255
    data = stored(pixels, code)
    place = still_placement((136, 200), (17, 25))
    image = decode_image(data, (136, 200), 8, code)
    shown = place.image(image, (17, 25), 8)[..., 0] > 127
    np.testing.assert_array_equal(shown, pixels[4::8, 4::8, 0] > 127)
