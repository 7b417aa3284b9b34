"""Pasting masks into images, pixel by pixel."""

import hotcoco
import numpy as np
import pytest
from pycocotools import mask as pycocotools_mask

from agvm_jax.mask_pasting import encode_mask, paste_mask


def slow_paste(mask, box, height, width):
    """Look every pixel centre up, four neighbours, zero outside."""
    rows, columns = mask.shape
    x1, y1, x2, y2 = box
    pasted = np.zeros((height, width), np.uint8)
    for y in range(height):
        for x in range(width):
            v = (y + 0.5 - y1) / (y2 - y1) * rows - 0.5
            u = (x + 0.5 - x1) / (x2 - x1) * columns - 0.5
            value = 0.0
            for i in (int(np.floor(v)), int(np.floor(v)) + 1):
                for j in (int(np.floor(u)), int(np.floor(u)) + 1):
                    if 0 <= i < rows and 0 <= j < columns:
                        weight = (1 - abs(v - i)) * (1 - abs(u - j))
                        value += weight * mask[i, j]
            pasted[y, x] = value >= 0.5
    return pasted


@pytest.mark.parametrize("seed", range(6))
def test_pasting_equals_the_slow_oracle_even_beyond_the_border(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((7, 7))
    corner, side = rng.uniform(-8, 20, 2), rng.uniform(0.5, 40, 2)
    box = np.concatenate([corner, corner + side])
    pasted = paste_mask(mask, box, 23, 31)
    np.testing.assert_array_equal(pasted, slow_paste(mask, box, 23, 31))


def test_a_full_mask_fills_exactly_the_pixels_of_a_whole_numbered_box():
    pasted = paste_mask(np.ones((28, 28)), np.array([3, 5, 13, 9]), 20, 20)
    expected = np.zeros((20, 20), np.uint8)
    expected[5:9, 3:13] = 1
    np.testing.assert_array_equal(pasted, expected)


def test_a_probability_of_exactly_a_half_is_in_the_mask():
    mask = np.full((4, 4), 0.5)
    assert paste_mask(mask, np.array([-4, -4, 12, 12]), 8, 8).all()


@pytest.mark.parametrize(
    "box", [[5, 5, 5, 9], [9, 9, 5, 5], [30, 30, 40, 40], [-9, 0, -1, 9]]
)
def test_empty_boxes_and_boxes_outside_the_image_give_an_empty_mask(box):
    assert not paste_mask(np.ones((4, 4)), np.array(box), 20, 20).any()


@pytest.mark.parametrize("seed", range(3))
def test_run_lengths_are_those_of_pycocotools_and_decode_to_the_mask(seed):
    mask = (np.random.default_rng(seed).random((17, 9)) < 0.4).astype(np.uint8)
    counts = encode_mask(mask)
    assert counts == pycocotools_mask.encode(np.asfortranarray(mask))["counts"]
    decoded = hotcoco.mask.decode({"size": [17, 9], "counts": counts})
    np.testing.assert_array_equal(decoded, mask)
