"""Masks as COCO files write them, and what is wrong with some."""

import numpy as np
import pytest
from coco_files import annotation, with_masks
from pycocotools import mask as pycoco

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.dataset import open_dataset
from agvm_jax.data.pipeline import eval_batches

# pycocotools and numpy 2 disagree about the copy keyword; it works all the same.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")


def test_polygons_and_run_lengths_of_a_file_become_masks(write_coco, two_images):
    config = write_coco(with_masks(two_images))
    config.mask_size = 10
    dataset = open_dataset(config)
    assert dataset.train.report.masks == 3
    assert dataset.train.report.dropped_polygons == 1
    assert "1 polygons that enclose nothing" in "\n".join(dataset.report)
    (batch,) = eval_batches(
        dataset.train, image_size=(20, 30), batch_size=2, data_config=config
    )
    assert batch.masks[0, 0].all()  # the polygon fills its box
    rows, columns = np.nonzero(batch.masks[0, 1])  # the crowd's box is the picture
    assert (rows.min(), rows.max()) == (2, 4) and (columns.min(), columns.max()) in [
        (1, 6),
        (2, 6),
    ]
    truth = dataset.train.ground_truth()["annotations"]
    assert truth[0]["segmentation"] == [[1, 2, 11, 2, 11, 7, 1, 7]]
    given = two_images["annotations"][1]["segmentation"]
    expected = pycoco.decode(pycoco.frPyObjects(given, 20, 30))
    np.testing.assert_array_equal(pycoco.decode(truth[1]["segmentation"]), expected)


def test_masks_that_are_asked_for_must_be_there(write_coco, two_images):
    del with_masks(two_images)["annotations"][0]["segmentation"]
    config = write_coco(two_images)
    assert len(open_dataset(config).train) == 2
    config.mask_size = 10
    with pytest.raises(DataError, match="1 of the 3 boxes of the train split.*mask_si"):
        open_dataset(config)


def test_a_box_that_is_missing_is_taken_from_the_run_lengths(write_coco, two_images):
    with_masks(two_images)["annotations"][1]["bbox"] = None
    config = write_coco(two_images)
    boxes = open_dataset(config).train[0]["boxes"]
    np.testing.assert_array_equal(boxes[1], [5, 4, 20, 9])


BROKEN = {
    "text": ("masks", ["annotation 1", "'masks'"]),
    "odd polygon": ([[1, 2, 3, 4, 5]], ["polygon of annotation 1", "x y"]),
    "text in polygon": ([[1, 2, 3, 4, 5, "x"]], ["polygon of annotation 1"]),
    "nan in polygon": ([[1, 2, 3, 4, 5, float("nan")]], ["not finite"]),
    "huge in polygon": ([[1, 2, 3, 4, 5, 10**400]], ["polygon of annotation 1"]),
    "nested polygon": ([[[1, 2], [3, 4], [5, 6]]], ["polygon of annotation 1"]),
    "size of another": ({"size": [30, 20], "counts": [600]}, ["[30, 20]", "[20, 30]"]),
    "no size": ({"counts": [600]}, ["size None"]),
    "negative size": ({"size": [-20, -30], "counts": [600]}, ["[-20, -30]"]),
    "too short": ({"size": [20, 30], "counts": [500]}, ["annotation 1 do not cover"]),
    "negative counts": ({"size": [20, 30], "counts": [601, -1]}, ["not run lengths"]),
    "no counts": ({"size": [20, 30]}, ["counts of annotation 1 are None"]),
    "garbage text": ({"size": [20, 30], "counts": "~~~"}, ["annotation 1", "counts"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_segmentation_is_one_sentence(name, write_coco, two_images):
    segmentation, words = BROKEN[name]
    two_images["annotations"] = [
        annotation(1, 7, 90, [1, 2, 10, 5], segmentation=segmentation)
    ]
    with pytest.raises(DataError) as caught:
        open_dataset(write_coco(two_images))
    assert all(word in str(caught.value) for word in words), caught.value
