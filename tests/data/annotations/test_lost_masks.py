"""Objects whose segmentation holds no mask: left out and counted, everywhere alike."""

import itertools

import numpy as np
import pytest
from coco_files import annotation, with_masks
from hypothesis import given, settings
from hypothesis import strategies as st
from listed_sources import example

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.annotations.objects import bitmap, encloses, pack
from agvm_jax.data.augment.augmentation import Drawn
from agvm_jax.data.augment.placement import Placement, crop_masks
from agvm_jax.data.dataset import open_dataset
from agvm_jax.data.example import make_row
from agvm_jax.data.pipeline import eval_batches
from agvm_jax.evaluation.instance import InstanceEvaluator

LOST = {
    "two points": [[2, 2, 6, 6]],
    "on one line": [[2, 2, 4, 4, 6, 6, 3, 3]],
    "one point": [[3, 3, 3, 3, 3, 3]],
    "no pixel": {"size": [20, 30], "counts": [600]},
}


def crop_mask(bitmap, region, side):
    (mask,) = crop_masks([bitmap], np.array([region], np.float64), side)
    return mask


@pytest.mark.parametrize("name", LOST)
def test_an_object_whose_mask_is_lost_is_left_out_where_masks_are_learnt(
    name, write_coco, two_images
):
    """One such refused the whole set; records and ground truth agree on it."""
    first, crowd, _ = with_masks(two_images)["annotations"]
    two_images["annotations"].append(first | {"id": 14, "segmentation": LOST[name]})
    # A box without area and without a segmentation, which the evaluator refused.
    two_images["annotations"].append(annotation(15, 7, 90, [3, 3, 0, 5]))
    config = write_coco(two_images)
    for mask_size, kept in ((0, 3), (10, 2)):
        config.mask_size = mask_size
        dataset = open_dataset(config)
        batches = eval_batches(
            dataset.val, image_size=(20, 30), batch_size=2, data_config=config
        )
        (batch,) = batches
        assert batch.valid.sum(axis=1).tolist() == [kept, 1]
        assert batches.counters["boxes_without_mask"] == 3 - kept
        truth = dataset.val.ground_truth()
        ids = [a["id"] for a in truth["annotations"]]
        assert ids == [11, 12, 13, 14][: kept + 1]
    InstanceEvaluator(truth, dataset.category_ids, dataset.class_names)
    text = "\n".join(dataset.report)
    assert "1 boxes without a usable mask, left out of mask training" in text
    assert "1 boxes without area dropped" in text


def test_masks_that_are_all_lost_are_refused(write_coco, two_images):
    """Some tools write boxes as polygons of two corners."""
    for entry in two_images["annotations"]:
        entry["segmentation"] = [[2, 2, 6, 6]]
    config = write_coco(two_images)
    assert open_dataset(config).train.report.boxes == 3
    config.mask_size = 10
    with pytest.raises(DataError, match="3 of the 3 boxes .* have no usable segment"):
        open_dataset(config)


def test_a_lost_mask_has_no_box_around_it(write_coco, two_images):
    first = with_masks(two_images)["annotations"][0]
    first["segmentation"], first["bbox"] = [[2, 2, 6, 6]], None
    report = open_dataset(write_coco(two_images)).train.report
    assert (report.boxes, report.zero_area_boxes, report.lost_masks) == (2, 1, 0)


def test_a_mask_thinner_than_a_pixel_does_not_vanish():
    """Those pixels stay that it covers most."""
    post = np.array([2.6, 3, 2.9, 3, 2.9, 9, 2.6, 9])
    assert bitmap([post], (2, 3, 3, 9)).all()
    dot = np.array([4.1, 4.1, 4.6, 4.1, 4.6, 4.6, 4.1, 4.6])
    found = bitmap([dot], (3, 3, 6, 6))
    assert np.argwhere(found).tolist() == [[1, 1]]
    assert not bitmap([dot], (5, 5, 9, 9)).any()


def test_a_thin_object_stays_where_a_cell_is_larger_than_it():
    """A line across 64 pixels, seen in 8 x 8 cells: each shows where it goes."""
    line = np.eye(64, dtype=bool)
    assert crop_mask(line, (0, 0, 64, 64), 8).tolist() == np.eye(8).tolist()
    assert not crop_mask(line, (40, 0, 64, 24), 8).any()


def test_an_object_of_which_a_crop_shows_no_pixel_is_no_target(data_config):
    """Its box reaches into the crop, and nothing there belongs to it."""
    data_config.mask_size = 8
    one = example(0, boxes=2, size=(40, 40))
    one["boxes"] = np.array([[0, 0, 40, 40], [20, 20, 36, 36]], np.float32)
    corner = np.zeros((40, 40), bool)
    corner[:6, :6] = True
    one["masks"] = pack([corner, np.ones((16, 16), bool)])
    place = Placement((40, 40), (40, 40), (10, 10), (30, 30), flip=False)
    row, dropped = make_row(one, Drawn(place), (40, 40), data_config)
    assert dropped == (0, 1)
    assert row["valid"].sum() == 1 and row["classes"][0] == 1 and row["masks"][0].all()


@settings(max_examples=100, deadline=None)
@given(
    points=st.lists(st.tuples(*[st.integers(-3, 3)] * 2), max_size=5),
    scale=st.sampled_from([1.0, 2.0**-10, 2.0**60]),
)
def test_a_polygon_encloses_something_unless_it_lies_on_one_line(points, scale):
    """Slowly: some three of its points span a triangle."""
    spans = any(
        (b[0] - a[0]) * (c[1] - a[1]) != (b[1] - a[1]) * (c[0] - a[0])
        for a, b, c in itertools.combinations(points, 3)
    )
    assert encloses(np.array(points, float).ravel() * scale) == spans
