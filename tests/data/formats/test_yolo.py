"""YOLO folders: lines of text become boxes and masks, or a sentence."""

import numpy as np
import pytest
from coco_files import noise_png
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.dataset import open_dataset
from agvm_jax.data.formats.yolo import YoloOrigin
from agvm_jax.data.formats.yolo_layout import YoloFiles, find_yolo

LABELS = {
    "a": "1 0.5 0.5 0.2 0.4\n\n0 0.1 0.1 0.5 0.1 0.5 0.5\n",
    "b": "",
    "c": None,  # no file
}


@pytest.fixture
def write_yolo(tmp_path, data_config):
    """A function that writes a YOLO folder and returns the config to open it."""

    def write(labels=LABELS, flat=True, names="names: [ape, zebra]\n", val="val"):
        root = tmp_path / "yolo"
        for split in ("train", val):
            images = (
                root / ("images" if flat else split) / (split if flat else "images")
            )
            texts = root / ("labels" if flat else split) / (split if flat else "labels")
            images.mkdir(parents=True, exist_ok=True)
            texts.mkdir(parents=True, exist_ok=True)
            for name, text in labels.items():
                (images / f"{name}.png").write_bytes(noise_png(20, 30))
                if text is not None:
                    (texts / f"{name}.txt").write_text(text)
        if names is not None:
            (root / "data.yaml").write_text(names)
        data_config.name, data_config.root = "yolo", str(root)
        return data_config

    return write


@pytest.mark.parametrize("layout", [{}, {"flat": False, "val": "valid"}])
def test_lines_become_boxes_in_pixels_in_either_layout(layout, write_yolo):
    dataset = open_dataset(write_yolo(**layout))
    assert dataset.class_names == ("ape", "zebra") and dataset.category_ids == (0, 1)
    example = dataset.train[0]
    np.testing.assert_allclose(
        example["boxes"], [[12, 6, 18, 14], [3, 2, 15, 10]], rtol=1e-6
    )
    assert example["classes"].tolist() == [1, 0]
    assert [len(dataset.val[i]["boxes"]) for i in range(3)] == [2, 0, 0]
    assert dataset.train.report.images_without_boxes == 2
    truth = dataset.val.ground_truth()["annotations"]
    np.testing.assert_allclose(truth[0]["bbox"], [12, 6, 6, 8])
    np.testing.assert_allclose(truth[1]["segmentation"], [[3, 2, 15, 2, 15, 10]])
    assert truth[0]["area"] == pytest.approx(48)


def test_boxes_over_the_edge_are_clipped_and_counted(write_yolo):
    dataset = open_dataset(write_yolo({"a": "0 0.0 0.5 0.5 0.5\n0 0.5 0.5 0 0.1"}))
    np.testing.assert_allclose(dataset.train[0]["boxes"], [[0, 5, 7.5, 15]])
    report = dataset.train.report
    assert (report.clipped_boxes, report.zero_area_boxes) == (1, 1)


def test_a_changed_digit_is_noticed(write_yolo):
    first = open_dataset(write_yolo({"a": "0 0.5 0.5 0.2 0.4"})).train
    second = open_dataset(write_yolo({"a": "1 0.5 0.5 0.2 0.4"})).train
    assert first.folder != second.folder and second[0]["classes"].tolist() == [1]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("0 0.5 0.5 0.2", "a.txt, line 1: .* is neither"),
        ("0 0.5 0.5 0.2 0.3 0.4", "line 1: .* is neither"),
        ("0 .1 .1 .2 .2 .3 .3 .4", "line 1: its polygon has an x without a y"),
        ("x 0.5 0.5 0.2 0.2", "line 1: .* is neither"),
        ("0 0.5 nan 0.2 0.2", "line 1: .* is neither"),
        ("\n2 0.5 0.5 0.2 0.2", "line 2: the class is 2, but there are 2 classes"),
        ("-1 0.5 0.5 0.2 0.2", "the class is -1"),
        ("0.5 0.5 0.5 0.2 0.2", "the class is 0.5"),
    ],
)
def test_a_line_that_says_nothing_is_named(line, words, write_yolo):
    with pytest.raises(DataError, match=words):
        open_dataset(write_yolo({"a": line}))


@pytest.fixture
def layout(tmp_path):
    """An empty folder of one of the usual layouts."""
    for kind in ("images", "labels"):
        (tmp_path / kind / "train").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("names: [a, 7]", ("a", "7")),
        ("names: {1: b, 0: a}\nnc: 2", ("a", "b")),
    ],
)
def test_names_are_a_list_or_a_mapping(text, names, layout):
    (layout / "data.yaml").write_text(text)
    assert find_yolo(layout).names == names


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("names: [a, b", "data.yaml is not valid YAML"),
        ("nc: 3", "names no classes"),
        ("nc: 3\nnames: [a]", "nc is 3, but there are 1 names"),
        ("names: {1: b, 2: a}", "names no classes"),
        ("- a", "names no classes"),
        (None, "neither data.yaml nor classes.txt"),
    ],
)
def test_names_that_are_not_there_are_asked_for(text, words, layout):
    if text is not None:
        (layout / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=words):
        find_yolo(layout)


def test_names_may_come_from_classes_txt(layout):
    (layout / "classes.txt").write_text("ape\n\n zebra \n")
    assert find_yolo(layout).names == ("ape", "zebra")


def test_a_folder_of_another_layout_says_what_was_looked_for(write_yolo, tmp_path):
    config = write_yolo()
    images = tmp_path / "yolo" / "images"
    (images / "train").rename(images / "dev")
    with pytest.raises(DataError, match="no training images.*in images/train or train"):
        open_dataset(config)


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(content=st.binary(max_size=30) | st.text("01 .-en\n", max_size=40))
def test_any_label_file_gives_objects_or_one_data_error(content, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "a.png").write_bytes(noise_png(20, 30))
    origin = YoloOrigin("train", YoloFiles(tmp_path, (tmp_path,)), ("ape", "zebra"))
    try:
        annotations = origin.annotations()
    except DataError as error:
        assert "a.txt, line" in str(error)
        return
    report = annotations.report()
    assert len(annotations.objects(0)["boxes"]) == report.boxes


def test_a_polygon_on_one_line_is_a_box_without_a_mask(write_yolo):
    config = write_yolo({"a": "0 0.1 0.1 0.5 0.5 0.9 0.9\n1 0.1 0.1 0.5 0.1 0.5 0.5\n"})
    config.mask_size = 8
    report = open_dataset(config).train.report
    assert (report.boxes, report.masks, report.lost_masks) == (2, 1, 1)
    assert report.dropped_polygons == 1


def test_keypoints_are_no_polygon(write_yolo):
    """Two of them after the box, x and y each, would pass for one."""
    names = "names: [ape, zebra]\nkpt_shape: [2, 2]\n"
    config = write_yolo({"a": "1 0.5 0.5 0.2 0.4 0.1 0.1 0.9 0.9"}, names=names)
    example = open_dataset(config).train[0]
    np.testing.assert_allclose(example["boxes"], [[12, 6, 18, 14]], rtol=1e-6)


def test_a_mark_that_windows_puts_before_a_text_is_no_part_of_it(write_yolo, tmp_path):
    config = write_yolo({"a": "\ufeff0 0.5 0.5 0.2 0.4"}, names=None)
    (tmp_path / "yolo" / "classes.txt").write_text("\ufeffape\r\nzebra")
    dataset = open_dataset(config)
    assert dataset.class_names == ("ape", "zebra")
    assert dataset.train[0]["classes"].tolist() == [0]


def test_names_may_have_spaces_and_letters_of_any_language(write_yolo):
    dataset = open_dataset(write_yolo({"zwölf 犬": "1 0.5 0.5 0.2 0.4\n"}))
    assert dataset.train[0]["file_name"] == "zwölf 犬.png"
    assert dataset.train[0]["classes"].tolist() == [1]


def test_a_polygon_of_fewer_than_three_points_is_refused(write_yolo):
    """A line of two points would be five numbers: class, x y width height."""
    with pytest.raises(DataError, match="a.txt, line 1: '0 0.1' is neither"):
        open_dataset(write_yolo({"a": "0 0.1\n"}))


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    content=st.binary(max_size=40)
    | st.text('names:[]{}, 012ab\n-&*!"\\ud8', max_size=30).map(str.encode)
    | st.text(max_size=12).map(lambda t: f"names: [{t}]".encode())
)
def test_any_yaml_gives_names_or_one_data_error(content, layout):
    (layout / "data.yaml").write_bytes(content)
    try:
        names = find_yolo(layout).names
    except DataError as error:
        assert "data.yaml" in str(error)
        return
    assert names and all(isinstance(name, str) for name in names)
    "".join(names).encode()


def test_a_set_whose_labels_are_in_pixels_hears_that_no_box_is_left(write_yolo):
    report = "\n".join(open_dataset(write_yolo({"a": "1 15 10 6 8\n"})).report)
    assert "1 boxes wholly outside their image dropped (are they pixels" in report
    assert "no image of the train split has a box" in report
