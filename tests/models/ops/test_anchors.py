"""Anchors: sizes, rounding, places and order, which torchvision's weights rely on."""

import numpy as np
import pytest

from models.ops.anchors import (
    cell_anchors,
    grid_anchors,
    octave_sizes,
    pyramid_anchors,
)


def test_default_sizes_are_those_of_torchvision():
    assert octave_sizes((32, 64, 128, 256, 512), 3) == (
        (32, 40, 50),
        (64, 80, 101),
        (128, 161, 203),
        (256, 322, 406),
        (512, 645, 812),
    )


def test_one_scale_is_the_size_itself():
    assert octave_sizes((16.5,), 1) == ((16.5,),)


def test_ratios_are_slower_than_sizes_and_mean_height_over_width():
    cells = cell_anchors((32, 64), (0.5, 2.0))
    assert cells.tolist() == [
        [-23, -11, 23, 11],
        [-45, -23, 45, 23],
        [-11, -23, 11, 23],
        [-23, -45, 23, 45],
    ]
    assert cells.dtype == np.float32


def test_halves_round_to_even_as_in_torchvision():
    assert cell_anchors((5,), (1.0,)).tolist() == [[-2, -2, 2, 2]]
    assert cell_anchors((7,), (1.0,)).tolist() == [[-4, -4, 4, 4]]


def test_anchors_run_by_row_then_column_then_shape():
    cells = cell_anchors((8,), (1.0, 4.0))
    anchors = np.asarray(grid_anchors(cells, (2, 3), 16))
    expected = [
        [x - w, y - h, x + w, y + h]
        for y in (0, 16)
        for x in (0, 16, 32)
        for w, h in ((4, 4), (2, 8))
    ]
    assert anchors.tolist() == expected


def torchvision_centres(side, cells):
    """Where torchvision puts anchors: its stride is side // cells."""
    return side // cells * np.arange(cells)


@pytest.mark.parametrize(("side", "drift"), [(768, 0), (800, 84), (1344, 60)])
def test_anchors_stand_on_their_cells_where_torchvisions_drift(side, drift):
    """P7 has a cell every 128 pixels, of an image of any size."""
    count = -(-side // 128)
    cells = [cell_anchors((512,), (1.0,))]
    (anchors,) = pyramid_anchors(cells, [(count, count)], [128])
    anchors = np.asarray(anchors).reshape(count, count, 4)
    centres = (anchors[..., :2] + anchors[..., 2:]) / 2
    places = 128 * np.arange(count)
    np.testing.assert_array_equal(centres[..., 0], np.tile(places, (count, 1)))
    np.testing.assert_array_equal(centres[..., 1], np.tile(places, (count, 1)).T)
    assert places[-1] - torchvision_centres(side, count)[-1] == drift


def test_a_pyramid_with_another_number_of_levels_is_refused():
    cells = [cell_anchors((8,), (1.0,))]
    with pytest.raises(ValueError, match="1 levels, but the pyramid has 2"):
        pyramid_anchors(cells, [(2, 2), (1, 1)], (8, 16))


@pytest.mark.parametrize(
    ("sizes", "ratios"), [((), (1.0,)), ((8,), ()), ((0,), (1.0,)), ((8,), (-1.0,))]
)
def test_empty_or_negative_anchors_are_refused(sizes, ratios):
    with pytest.raises(ValueError, match="must be positive"):
        cell_anchors(sizes, ratios)


def test_a_level_without_scales_is_refused():
    with pytest.raises(ValueError, match="anchors.scales is 0"):
        octave_sizes((32,), 0)
