"""Photometric distortion beside a loop over pixels that uses the standard library."""

import colorsys
import dataclasses

import numpy as np
import pytest

from agvm_jax.data.augment.color import ColorJitter, Colors

SSD = ColorJitter(0.125, 0.5, 0.5, 0.05)


def slow_colors(image, colors):
    """Pixel by pixel in floating point, clipped where eight bits clip."""
    out = np.zeros(image.shape)
    for place in np.ndindex(image.shape[:2]):
        value = np.clip(image[place].astype(float) + colors.brightness, 0, 255)
        if not colors.contrast_last:
            value = np.clip(value * colors.contrast, 0, 255)
        h, s, v = colorsys.rgb_to_hsv(*(value / 255))
        h, s = (h + colors.hue) % 1.0, min(1.0, s * colors.saturation)
        value = 255 * np.array(colorsys.hsv_to_rgb(h, s, v))
        if colors.contrast_last:
            value = np.clip(value * colors.contrast, 0, 255)
        out[place] = value
    return out


@pytest.mark.parametrize("seed", range(12))
def test_colours_are_those_of_a_loop_over_pixels(seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (12, 15, 3), np.uint8)
    colors = SSD.sample(rng)
    ours = colors.apply(image)
    assert ours.dtype == np.uint8 and ours.shape == image.shape
    error = np.abs(ours - slow_colors(image, colors))
    # H has eight bits, before the turn and after it: together up to a step, which is
    # 6 / 256 of the way between two corners of the colour circle; contrast multiplies
    # that by up to 1.5. On average it is far less.
    assert error.max() <= 10 and error.mean() < 1


def test_the_seeds_above_change_everything_in_both_orders():
    sampled = [SSD.sample(_after_image(seed)) for seed in range(12)]
    for field, still in dataclasses.asdict(Colors()).items():
        assert len({getattr(c, field) != still for c in sampled}) == 2


def _after_image(seed):
    rng = np.random.default_rng(seed)
    rng.integers(0, 256, (12, 15, 3), np.uint8)
    return rng


def test_each_property_alone_does_what_its_name_says():
    image = np.array([[[200, 100, 50], [90, 90, 90]]], np.uint8)
    brighter = Colors(brightness=30).apply(image)
    np.testing.assert_array_equal(brighter[0, 0], [230, 130, 80])
    np.testing.assert_array_equal(
        Colors(contrast=0.5).apply(image)[0, 0], [100, 50, 25]
    )
    grey = Colors(saturation=0.0).apply(image)
    np.testing.assert_array_equal(grey[0, 0], [200, 200, 200])  # V is the largest
    turned = Colors(hue=1 / 3).apply(image)  # red becomes green
    np.testing.assert_allclose(turned[0, 0], [50, 200, 100], atol=3)
    for colors in (Colors(hue=0.3), Colors(saturation=1.7)):
        np.testing.assert_array_equal(colors.apply(image)[0, 1], [90, 90, 90])


def test_hue_is_a_circle():
    image = np.array([[[255, 0, 0]]], np.uint8)
    for turns in (-0.4, 0.6):
        np.testing.assert_allclose(
            Colors(hue=turns).apply(image)[0, 0], [0, 102, 255], atol=3
        )


def test_a_turn_that_is_next_to_nothing_gives_the_image_back():
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    error = np.abs(Colors(hue=1e-9).apply(image).astype(int) - image)
    assert error.max() <= 6 and error.mean() < 0.4


def test_values_are_clipped_and_never_wrap():
    image = np.array([[[250, 128, 3]]], np.uint8)
    np.testing.assert_array_equal(
        Colors(brightness=31).apply(image)[0, 0], [255, 159, 34]
    )
    np.testing.assert_array_equal(
        Colors(brightness=-31).apply(image)[0, 0], [219, 97, 0]
    )
    np.testing.assert_array_equal(Colors(contrast=2).apply(image)[0, 0], [255, 255, 6])


def test_the_order_of_contrast_matters_where_values_clip():
    image = np.array([[[240, 20, 20]]], np.uint8)
    first = Colors(contrast=1.5, saturation=0.5).apply(image)
    last = Colors(contrast=1.5, saturation=0.5, contrast_last=True).apply(image)
    assert (first != last).any()


def test_the_input_is_not_changed_and_no_colours_are_no_work():
    image = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    before = image.copy()
    assert Colors().apply(image) is image
    Colors(brightness=9, hue=0.2).apply(image)
    np.testing.assert_array_equal(image, before)


def test_samples_stay_in_their_ranges_and_happen_half_of_the_time():
    rng = np.random.default_rng(0)
    sampled = [SSD.sample(rng) for _ in range(2000)]
    for field, still, reach in (
        ("brightness", 0.0, 255 / 8),
        ("contrast", 1.0, 0.5),
        ("saturation", 1.0, 0.5),
        ("hue", 0.0, 0.05),
    ):
        shifts = np.array([getattr(c, field) for c in sampled]) - still
        assert 0.46 < np.mean(shifts != 0) < 0.54
        assert 0.99 * reach < np.abs(shifts).max() <= reach
        assert abs(shifts.mean()) < 0.05 * reach
    assert 0.46 < np.mean([c.contrast_last for c in sampled]) < 0.54


def test_one_range_does_not_change_what_another_samples():
    one = ColorJitter(brightness=0.1).sample(np.random.default_rng(5))
    both = ColorJitter(brightness=0.1, hue=0.1).sample(np.random.default_rng(5))
    assert one.brightness == both.brightness and one.hue == 0.0
