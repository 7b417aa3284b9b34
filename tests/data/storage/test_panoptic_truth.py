"""The panoptic ground truth of prepared sets: the files, and that others read them."""

import json

import numpy as np
import pytest
from hotcoco.panoptic import PanopticEval

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.annotations.segments import Segments, load_segments, store_segments
from agvm_jax.data.dataset import open_dataset
from agvm_jax.data.formats.coco_panoptic import read_panoptic
from agvm_jax.data.storage.panoptic_truth import PanopticTruth
from agvm_jax.panoptic_png import read_panoptic_png


@pytest.fixture
def split(data_config):
    data_config.shapes.stuff, data_config.semantic = True, "all"
    data_config.shapes.image_size = (32, 40)
    return open_dataset(data_config).val


def test_segments_have_the_areas_and_bounds_that_a_slow_loop_finds(split):
    truth = PanopticTruth(split)
    assert len(truth.content["annotations"]) == len(truth.content["images"]) == 5
    for index, annotation in enumerate(truth.content["annotations"]):
        segments = load_segments(split[index])
        ids = truth.load(annotation["file_name"])
        np.testing.assert_array_equal(ids, segments.numbers)
        listed = {one["id"]: one for one in annotation["segments_info"]}
        assert set(listed) == set(ids.ravel().tolist()) - {0}
        for number, one in listed.items():
            pixels = [
                (x, y) for y in range(32) for x in range(40) if ids[y, x] == number
            ]
            xs, ys = zip(*pixels, strict=True)
            assert one["area"] == len(pixels)
            x, y, width, height = one["bbox"]
            assert (x, y) == (min(xs), min(ys))
            assert (x + width - 1, y + height - 1) == (max(xs), max(ys))
            k = segments.classes[number - 1]
            # Ids are 1..3 for the things and 4..6 for the stuff.
            assert one["category_id"] == k + 1
            assert one["iscrowd"] == 0


def test_categories_say_what_is_a_thing_and_labels_know_their_stuff(split):
    truth = PanopticTruth(split)
    categories = truth.content["categories"]
    assert [(c["id"], c["name"], c["isthing"]) for c in categories] == [
        (1, "circle", 1), (2, "square", 1), (3, "triangle", 1),
        (4, "clouds", 0), (5, "waves", 0), (6, "tiles", 0),
    ]  # fmt: skip
    assert truth.label_categories("stuff") == (None, 4, 5, 6)
    assert truth.label_categories("all") == (None, None, None, 4, 5, 6)


def test_a_split_gives_image_labels_and_truth_by_an_images_id(split):
    example = split[2]
    image_id = example["image_id"]
    assert split.index_of[image_id] == 2
    image = split.image(image_id)
    assert image.shape == (32, 40, 3) and image.any()
    segments = load_segments(example)
    expected = np.concatenate([[-1], segments.classes])[segments.numbers]
    np.testing.assert_array_equal(split.labels(image_id, "all"), expected)
    expected = np.where(expected < 3, np.minimum(expected, 0), expected - 2)
    np.testing.assert_array_equal(split.labels(image_id, "stuff"), expected)
    assert split.panoptic_truth().content == PanopticTruth(split).content


class Hiding:
    """A split of one image with crowd, void, and a segment that nothing shows."""

    def __init__(self, split, stored):
        self.card, self._example = split.card, split[0] | stored

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self._example


def test_crowds_are_marked_and_segments_without_a_pixel_left_out(split):
    numbers = np.array([[0, 1, 1], [0, 3, 1]])
    stored = store_segments(
        Segments(numbers, np.array([0, 1, 4], np.int32), np.array([True, False, False]))
    )
    truth = PanopticTruth(Hiding(split, stored))
    (annotation,) = truth.content["annotations"]
    assert annotation["segments_info"] == [
        {"id": 1, "category_id": 1, "iscrowd": 1, "area": 3, "bbox": [1, 0, 2, 2]},
        {"id": 3, "category_id": 5, "iscrowd": 0, "area": 1, "bbox": [1, 1, 1, 1]},
    ]
    np.testing.assert_array_equal(truth.load(annotation["file_name"]), numbers)


def test_the_files_are_read_by_our_reader_and_by_another_tool(split, tmp_path):
    truth = PanopticTruth(split)
    truth.write(tmp_path / "tiëf" / "panoptic_val.json")
    folder = tmp_path / "tiëf" / "panoptic_val"
    content = json.loads((tmp_path / "tiëf" / "panoptic_val.json").read_text("utf-8"))
    assert content == truth.content
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"{i:012d}.png" for i in range(1, 6)]
    for name in names:
        np.testing.assert_array_equal(
            read_panoptic_png(folder / name), truth.load(name)
        )

    things = dict(zip(split.card.category_ids, split.card.class_names, strict=True))
    read = read_panoptic(tmp_path / "tiëf" / "panoptic_val.json", things)
    assert (read.stuff_ids, read.stuff_names) == (
        split.card.stuff_ids,
        split.card.stuff_names,
    )
    for index in range(5):
        one, other = load_segments(split[index]), read.segments(index + 1, (32, 40))
        np.testing.assert_array_equal(
            one.labels(3, merged=False), other.labels(3, merged=False)
        )

    # An evaluation by files, the truth as prediction.
    path = str(tmp_path / "tiëf" / "panoptic_val.json")
    theirs = PanopticEval(path, path)
    theirs.evaluate()
    assert theirs.stats[0] == 1.0


def test_a_set_without_segments_says_so(data_config):
    split = open_dataset(data_config).val
    with pytest.raises(DataError, match="no readable segments"):
        _ = PanopticTruth(split).content
