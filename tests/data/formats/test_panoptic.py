"""COCO panoptic annotations: a JSON, PNGs of segment ids, and their agreement."""

import copy
import json
import pathlib

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.annotations.segments import load_segments
from agvm_jax.data.dataset import open_dataset
from agvm_jax.data.formats.coco_panoptic import read_panoptic
from agvm_jax.data.pipeline import eval_batches

# Segment ids of the two images: two things and stuff; stuff and void.
IDS = {
    7: np.array([[70000, 70000, 5], [70000, 300, 5]]).repeat(10, 0).repeat(10, 1),
    3: np.array([[0, 0, 16777215]]).repeat(16, 0).repeat(4, 1),
}


@pytest.fixture
def panoptic():
    """The panoptic dictionary for `two_images`, category ids interleaved."""
    return {
        "annotations": [
            {
                "image_id": 7,
                "file_name": "7.png",
                "segments_info": [
                    {"id": 70000, "category_id": 90, "iscrowd": 0},
                    {"id": 300, "category_id": 4, "iscrowd": 1},
                    {"id": 5, "category_id": 50, "iscrowd": 0},
                ],
            },
            {
                "image_id": 3,
                "file_name": "3.png",
                "segments_info": [{"id": 16777215, "category_id": 2}],
            },
        ],
        "categories": [
            {"id": 90, "name": "zebra", "isthing": 1},
            {"id": 4, "name": "ape", "isthing": 1},
            {"id": 50, "name": "sky", "isthing": 0},
            {"id": 2, "name": "grass", "isthing": 0},
        ],
    }


@pytest.fixture
def write_panoptic(write_coco, two_images):
    """A function that adds panoptic annotations to a COCO folder."""

    def write(content, ids=IDS):
        config = write_coco(two_images)
        root = pathlib.Path(config.root)
        for split in ("train", "val"):
            (root / f"panoptic_{split}.json").write_text(json.dumps(content))
            folder = root / f"panoptic_{split}"
            folder.mkdir(exist_ok=True)
            for image_id, values in ids.items():
                rgb = np.stack([values % 256, values // 256 % 256, values // 65536], -1)
                png = cv2.imencode(".png", rgb[..., ::-1].astype(np.uint8))[1]
                (folder / f"{image_id}.png").write_bytes(png.tobytes())
        config.semantic, config.semantic_stride = "all", 1
        return config

    return write


def test_segments_get_the_classes_of_things_first_then_stuff(write_panoptic, panoptic):
    dataset = open_dataset(write_panoptic(panoptic))
    assert dataset.label_names("all") == ("ape", "zebra", "grass", "sky")
    assert dataset.label_names("stuff") == ("things", "grass", "sky")
    assert (dataset.category_ids, dataset.stuff_ids) == ((4, 90), (2, 50))
    segments = load_segments(dataset.train[0])
    expected = np.array([[1, 1, 3], [1, 2, 3]]).repeat(10, 0).repeat(10, 1)
    np.testing.assert_array_equal(segments.numbers, expected)
    assert segments.classes.tolist() == [1, 0, 3]
    assert segments.crowd.tolist() == [False, True, False]


def test_labels_of_a_batch_are_the_classes_with_void_ignored(write_panoptic, panoptic):
    config = write_panoptic(panoptic)
    dataset = open_dataset(config)
    for semantic, stuff in (("all", 2), ("stuff", 1)):
        config.semantic = semantic
        (batch,) = eval_batches(
            dataset.val, image_size=(20, 30), batch_size=2, data_config=config
        )
        second = batch.semantic[1]  # 16 x 12 resized to 20 x 15
        assert (second[:, :10] == -1).all() and (second[:, 15:] == -1).all()
        assert (second[:, 10:15] == stuff).all()


def test_the_panoptic_file_is_not_needed_without_semantic_labels(
    write_panoptic, panoptic
):
    config = write_panoptic(panoptic)
    (pathlib.Path(config.root) / "panoptic_val.json").unlink()
    with pytest.raises(DataError, match="no panoptic annotation file .*panoptic_val"):
        open_dataset(config)
    config.semantic = "none"
    assert open_dataset(config).stuff_names == ()


# Each row: where in the dictionary, what to put there, what the message must say.
BROKEN = {
    "no annotations": ("annotations", None, "'annotations' is a null"),
    "id not in json": ("annotations.0.segments_info.2.id", 6, r"ids \[5\], which"),
    "id of void": ("annotations.0.segments_info.2.id", 0, "has the id 0"),
    "id too large": ("annotations.0.segments_info.2.id", 2**24, "16777216"),
    "id twice": ("annotations.0.segments_info.2.id", 300, "has the id 300"),
    "absent category": ("annotations.0.segments_info.2.category_id", 51, "category 51"),
    "no entry": ("annotations.0.image_id", 8, r"1 images have no entry.*\[7\]"),
    "no png": ("annotations.0.file_name", "no.png", "1 panoptic PNGs .*'no.png'"),
    "outside": ("annotations.0.file_name", "../7.png", "leads out"),
    "absolute": ("annotations.0.file_name", "/etc/7.png", "leads out"),
    "two entries": ("annotations.1.image_id", 7, "two annotations are of image 7"),
    "name of halves": ("categories.2.name", "\ud800", "category 50 has no usable name"),
    "isthing": ("categories.0.isthing", 2, "isthing of category 90 is 2"),
    "other thing": ("categories.0.name", "horse", "thing 'horse' here but 'zebra'"),
    "thing as stuff": ("categories.0.isthing", 0, "no stuff categories of its own"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_annotation_is_one_sentence(name, write_panoptic, panoptic):
    where, value, words = BROKEN[name]
    *parents, last = [int(k) if k.isdigit() else k for k in where.split(".")]
    target = panoptic
    for key in parents:
        target = target[key]
    target[last] = value
    with pytest.raises(DataError, match=words):
        open_dataset(write_panoptic(panoptic))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("no png", "cannot be read"),
        ("smaller", r"width \(20, 29\), its image \(20, 30\)"),
        ("truncated", "is truncated"),
        ("empty", "is an empty file"),
    ],
)
def test_a_png_that_does_not_fit_is_named(content, words, write_panoptic, panoptic):
    config = write_panoptic(panoptic)
    path = pathlib.Path(config.root) / "panoptic_train" / "7.png"
    smaller = cv2.imencode(".png", np.zeros((20, 29, 3), np.uint8))[1].tobytes()
    path.write_bytes(
        {
            "no png": b"no png",
            "smaller": smaller,
            "truncated": path.read_bytes()[:-20],
            "empty": b"",
        }[content]
    )
    with pytest.raises(DataError, match=f"7.png .*{words}"):
        open_dataset(config)


def test_a_segment_that_the_png_does_not_show_is_named(write_panoptic, panoptic):
    segments = panoptic["annotations"][0]["segments_info"]
    segments.append({"id": 6, "category_id": 50})
    with pytest.raises(DataError, match=r"lists the segment ids \[6\] for image 7"):
        open_dataset(write_panoptic(panoptic))


def test_both_splits_need_the_same_stuff(write_panoptic, panoptic):
    """Stuff is numbered by its place: another list would shift the labels unseen."""
    config = write_panoptic(panoptic)
    val = pathlib.Path(config.root) / "panoptic_val.json"
    for name, categories in (
        ("'soil'", [{"id": 1, "name": "soil", "isthing": 0}]),
        ("'heaven'", [{"id": 50, "name": "heaven", "isthing": 0}]),
    ):
        taken = {entry["id"] for entry in categories}
        rest = [entry for entry in panoptic["categories"] if entry["id"] not in taken]
        val.write_text(json.dumps(panoptic | {"categories": rest + categories}))
        with pytest.raises(DataError, match=f"different stuff.* and {name} in val"):
            open_dataset(config)


def test_pngs_may_have_names_with_spaces_and_letters_of_any_language(
    write_panoptic, panoptic
):
    panoptic["annotations"][0]["file_name"] = "zwölf 犬.png"
    config = write_panoptic(panoptic)
    for split in ("train", "val"):
        folder = pathlib.Path(config.root) / f"panoptic_{split}"
        (folder / "7.png").rename(folder / "zwölf 犬.png")
    assert load_segments(open_dataset(config).train[0]).classes.tolist() == [1, 0, 3]


values = (
    st.none()
    | st.booleans()
    | st.integers(-3, 400)
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.lists(st.integers(0, 3), max_size=2)
    | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)
)


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_panoptic_json_gives_segments_or_one_data_error(data, panoptic, tmp_path):
    """Up to three values of a good file are replaced by any JSON, or dropped."""
    content = copy.deepcopy(panoptic)
    for _ in range(data.draw(st.integers(1, 3))):
        target = content
        for _ in range(data.draw(st.integers(0, 4))):
            keys = list(target) if isinstance(target, dict) else range(len(target))
            inner = [k for k in keys if isinstance(target[k], dict | list)]
            if not inner:
                break
            target = target[data.draw(st.sampled_from(inner))]
        keys = list(target) if isinstance(target, dict) else list(range(len(target)))
        if not keys:
            continue
        key = data.draw(st.sampled_from(keys))
        if data.draw(st.booleans()):
            target[key] = data.draw(values)
        else:
            del target[key]
    path = tmp_path / "panoptic.json"
    path.write_text(json.dumps(content))
    (tmp_path / "panoptic").mkdir(exist_ok=True)
    ids = IDS[7]
    png = np.stack([ids // 65536, ids // 256 % 256, ids % 256], -1).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "panoptic" / "7.png"), png)
    try:
        found = read_panoptic(path, {90: "zebra", 4: "ape"})
        found.require(np.array([7]))
        segments = found.segments(7, (20, 30))
    except DataError as error:
        assert str(error)
        return
    count = len(segments.classes)
    assert count == len(segments.crowd) and segments.numbers.max() <= count
    assert segments.classes.max(initial=-1) < 2 + len(found.stuff_ids)
