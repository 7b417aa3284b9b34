"""COCO annotation files: any file gives Annotations or one clear DataError."""

import math

import numpy as np
import pytest
from coco_files import read

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.annotations.ground_truth import coco_dictionary
from agvm_jax.data.formats.coco_json import read_coco


def test_category_ids_with_holes_become_consecutive_classes(two_images, tmp_path):
    annotations = read(two_images, tmp_path)
    assert annotations.category_ids == (4, 90)
    assert annotations.class_names == ("ape", "zebra")
    np.testing.assert_array_equal(annotations.object_class, [1, 0, 0])


def test_objects_are_the_corners_of_each_image_in_order(two_images, tmp_path):
    objects = read(two_images, tmp_path).objects(0)
    np.testing.assert_array_equal(objects["boxes"], [[1, 2, 11, 7], [0, 0, 30, 20]])
    np.testing.assert_array_equal(objects["crowd"], [False, True])
    assert objects["boxes"].dtype == objects["area"].dtype == np.float32


def test_boxes_are_clipped_dropped_and_counted(two_images, tmp_path):
    a, b = two_images["annotations"][:2]
    for i, box in enumerate(
        [
            [-5, -5, 10, 10],  # clipped to 0 0 5 5
            [25, 15, 100, 100],  # clipped to 25 15 30 20
            [3, 3, 0, 5],  # no width
            [3, 3, 5, -1],  # negative height
            [40, 5, 5, 5],  # outside
            [0, 0, 30.01, 20],  # rounding, not counted
        ]
    ):
        two_images["annotations"].append(a | {"id": 100 + i, "bbox": box})
    annotations = read(two_images, tmp_path)
    objects = annotations.objects(0)
    np.testing.assert_allclose(
        objects["boxes"][2:], [[0, 0, 5, 5], [25, 15, 30, 20], [0, 0, 30, 20]]
    )
    report = annotations.report()
    assert (report.clipped_boxes, report.zero_area_boxes, report.outside_boxes) == (
        2,
        2,
        1,
    )
    assert (report.boxes, report.crowd_boxes, report.most_boxes) == (6, 1, 5)
    text = "\n".join(report.lines())
    assert "2 boxes clipped" in text and "1 boxes wholly outside" in text


def test_the_report_counts_what_objects_keeps(two_images, tmp_path):
    rng = np.random.default_rng(0)
    base = two_images["annotations"][0]
    two_images["annotations"] = [
        base | {"id": i + 1, "bbox": rng.integers(-20, 40, 4).tolist()}
        for i in range(300)
    ]
    annotations = read(two_images, tmp_path)
    kept = [len(annotations.objects(i)["boxes"]) for i in range(len(annotations))]
    report = annotations.report()
    assert report.boxes == sum(kept) and report.most_boxes == max(kept)
    assert report.images_without_boxes == kept.count(0)
    assert report.boxes + report.zero_area_boxes + report.outside_boxes == 300
    truth = coco_dictionary(annotations)["annotations"]
    for index, image_id in enumerate(annotations.image_ids):
        of_image = [a["category_id"] for a in truth if a["image_id"] == image_id]
        assert len(of_image) == kept[index]  # what evaluation counts
    assert all(w > 0 and h > 0 for *_, w, h in (a["bbox"] for a in truth))


def test_boxes_in_another_notation_are_asked_about(two_images, tmp_path):
    """A few of them are small or reach over the edge; most of them are a mistake."""
    one = two_images["annotations"][0]
    for box, words in (
        ([0.1, 0.2, 0.5, 0.4], "smaller than a pixel (are they shares"),
        ([15, 12, 25, 19], "clipped to their image (are they x1 y1 x2 y2"),
    ):
        others = [one | {"id": i, "bbox": [1, 2, 10, 5]} for i in range(3)]
        two_images["annotations"] = [one | {"id": 9, "bbox": box}, *others]
        text = "\n".join(read(two_images, tmp_path).report().lines())
        assert f"1 boxes {words[:8]}" in text and "(are" not in text
        two_images["annotations"] = [one | {"bbox": box}]
        assert words in "\n".join(read(two_images, tmp_path).report().lines())


def test_a_part_keeps_everything_of_its_own_images(two_images, tmp_path):
    first, _, third = two_images["annotations"]
    first["segmentation"] = [[1, 2, 11, 2, 11, 7], [3, 3, 4, 4]]
    third["segmentation"] = [[2, 2, 6, 6]]
    whole = read(two_images, tmp_path)
    for index, (dropped, lost) in enumerate(((1, 0), (1, 1))):
        part = whole.select(np.array([index]))
        report = part.report()
        assert (report.dropped_polygons, report.lost_masks) == (dropped, lost)
        for key, value in part.objects(0).items():
            np.testing.assert_array_equal(value, whole.objects(index)[key])
        for one, other in zip(part.bitmaps(0), whole.bitmaps(index), strict=True):
            np.testing.assert_array_equal(one, other)
        (image,) = coco_dictionary(part)["images"]
        assert image == two_images["images"][index]
    both = coco_dictionary(whole.select(np.array([1, 0])))
    assert both["annotations"] == coco_dictionary(whole)["annotations"]


def test_missing_area_iscrowd_and_ids_are_filled_in(two_images, tmp_path):
    for entry in two_images["annotations"]:
        entry.pop("iscrowd", None)
        entry.pop("id")
    truth = coco_dictionary(read(two_images, tmp_path))
    assert [a["id"] for a in truth["annotations"]] == [1, 2, 3]
    assert [a["area"] for a in truth["annotations"]] == [50.0, 600.0, 16.0]
    assert all(a["iscrowd"] == 0 for a in truth["annotations"])


@pytest.mark.parametrize("ids", [[0, 1, 2], [5, 5, 6], ["x", 1, 2]])
def test_annotation_ids_that_evaluation_cannot_use_are_replaced(
    ids, two_images, tmp_path
):
    for entry, i in zip(two_images["annotations"], ids, strict=True):
        entry["id"] = i
    assert read(two_images, tmp_path).object_ids.tolist() == [1, 2, 3]


def test_ground_truth_gives_back_what_the_file_says(two_images, tmp_path):
    truth = coco_dictionary(read(two_images, tmp_path))
    assert truth["images"] == two_images["images"]
    assert truth["categories"] == two_images["categories"][::-1]
    for ours, theirs in zip(
        truth["annotations"], two_images["annotations"], strict=True
    ):
        assert ours == {"iscrowd": 0, "area": ours["area"]} | theirs


def test_a_missing_bbox_is_taken_from_the_polygons(two_images, tmp_path):
    entry = two_images["annotations"][0]
    entry["bbox"] = None
    entry["segmentation"] = [[3, 4, 9, 4, 9, 8], [1, 5, 2, 5, 2, 6]]
    np.testing.assert_array_equal(read(two_images, tmp_path).boxes[0], [1, 4, 8, 4])


def test_a_missing_size_is_zero_until_the_picture_tells(two_images, tmp_path):
    del two_images["images"][0]["width"]
    two_images["images"][1]["height"] = None
    assert read(two_images, tmp_path).sizes.tolist() == [[0, 0], [0, 0]]


# Each row: where in the dictionary, what to put there, what the message must name.
BROKEN = {
    "no images": ("images", [], ["no images"]),
    "images no list": ("images", {}, ["'images'", "object"]),
    "image no object": ("images", ["x"], ["entry 0", "string"]),
    "no categories": ("categories", [], ["no categories"]),
    "image id text": ("images.0.id", "7", ["id of image entry 0", "'7'"]),
    "image id negative": ("images.0.id", -1, ["-1"]),
    "image id true": ("images.0.id", True, ["True"]),
    "image id huge": ("images.0.id", 2**70, ["whole number"]),
    "duplicate image id": ("images.0.id", 3, ["'a b.png'", "zwei.png", "id 3"]),
    "no file name": ("images.0.file_name", None, ["image 7", "file_name"]),
    "empty file name": ("images.0.file_name", "", ["image 7"]),
    "nul file name": ("images.0.file_name", "a\0b", ["image 7"]),
    "half a surrogate": ("images.0.file_name", "\ud800.png", ["image 7"]),
    "absolute": ("images.0.file_name", "/etc/passwd", ["leads out", "/etc/passwd"]),
    "parent": ("images.0.file_name", "x/../../y.png", ["leads out"]),
    "windows drive": ("images.0.file_name", "C:\\x.png", ["leads out"]),
    "windows parent": ("images.0.file_name", "..\\x.png", ["leads out"]),
    "width text": ("images.0.width", "30", ["width of image 7"]),
    "width huge": ("images.0.width", 2**40, ["image 7"]),
    "category without name": ("categories.0.name", None, ["category 90"]),
    "duplicate category": ("categories.0.id", 4, ["id 4"]),
    "absent image": ("annotations.0.image_id", 8, ["annotation 11", "image 8"]),
    "absent category": ("annotations.0.category_id", 5, ["annotation 11", "5"]),
    "bbox of three": ("annotations.0.bbox", [1, 2, 3], ["annotation 11", "[1, 2, 3]"]),
    "bbox text": ("annotations.0.bbox", [1, 2, 3, "4"], ["annotation 11", "'4'"]),
    "bbox nan": ("annotations.0.bbox", [1, 2, 3, math.nan], ["annotation 11", "nan"]),
    "bbox infinite": ("annotations.0.bbox", [1, 2, 3, math.inf], ["inf"]),
    "no bbox": ("annotations.0.bbox", None, ["annotation 11", "neither"]),
    "iscrowd 2": ("annotations.0.iscrowd", 2, ["iscrowd", "annotation 11"]),
    "area text": ("annotations.0.area", "big", ["area", "annotation 11"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_entry_is_one_sentence_that_names_it(name, two_images, tmp_path):
    where, value, words = BROKEN[name]
    *parents, last = [int(k) if k.isdigit() else k for k in where.split(".")]
    target = two_images
    for key in parents:
        target = target[key]
    target[last] = value
    with pytest.raises(DataError) as caught:
        read(two_images, tmp_path)
    message = str(caught.value)
    assert "annotations.json" in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_an_absent_section_is_named(key, two_images, tmp_path):
    del two_images[key]
    with pytest.raises(DataError, match=f"no '{key}'"):
        read(two_images, tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"images": [\n  {"id": 1,}\n]}', "line 2, column"),
        (b"", "line 1, column 1"),
        (b'{"a": "\xff"}', "cannot be read as JSON"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b"[1" + b"0" * 5000 + b"]", "cannot be read as JSON"),
        (b"[1, 2]", "JSON list"),
        (b"null", "JSON null"),
    ],
)
def test_a_file_that_is_no_json_object_says_where(content, words, tmp_path):
    with pytest.raises(DataError, match=words):
        read(content, tmp_path)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(DataError, match="no annotation file .*nothing.json"):
        read_coco(tmp_path / "nothing.json")


def test_categories_of_another_split_must_agree(two_images, tmp_path):
    known = {4: "ape", 90: "zebra", 91: "yak"}
    annotations = read(two_images, tmp_path, categories=known)
    assert annotations.class_names == ("ape", "zebra", "yak")
    with pytest.raises(DataError, match="category 90 is 'zebra' here but 'horse'"):
        read(two_images, tmp_path, categories={4: "ape", 90: "horse"})
    with pytest.raises(DataError, match="'absent' in the training split"):
        read(two_images, tmp_path, categories={4: "ape"})
