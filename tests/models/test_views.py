"""Views of images: what is seen, and what was found there taken back."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from agvm_jax.structures import Batch
from models.looks import TestConfig
from models.views import View

FRAME, SIZES = (48, 80), ((48, 70), (31, 41))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    image = np.zeros((2, *FRAME, 3), np.uint8)
    for row, (height, width) in enumerate(SIZES):
        small = rng.integers(0, 256, (height // 6, width // 6, 3), np.uint8)
        smooth = Image.fromarray(small).resize((width, height), Image.BICUBIC)
        image[row, :height, :width] = np.asarray(smooth)
    sizes = jnp.array(SIZES, jnp.int32)
    return Batch(jnp.asarray(image), sizes, jnp.arange(2), *[None] * 4)


def test_without_a_change_nothing_is_computed(batch):
    view = View()
    assert view.plain and view.of(batch) is batch
    boxes = jnp.ones((2, 3, 4))
    assert view.forth(boxes, batch.image_size) is boxes
    assert view.back(boxes, batch.image_size) is boxes
    assert TestConfig().views == TestConfig(img_ratios=(1,)).views == (view,)


@pytest.mark.parametrize(("ratio", "flip"), [(1.0, True), (0.4, True), (1.7, False)])
def test_images_are_those_of_pillow(batch, ratio, flip):
    seen = jax.jit(View(ratio, flip).of)(batch)
    assert seen.image.dtype == jnp.uint8
    if ratio != 1:
        assert all(side % 32 == 0 for side in seen.image.shape[1:3])
    for row, (height, width) in enumerate(SIZES):
        size = round(height * ratio), round(width * ratio)
        assert seen.image_size[row].tolist() == list(size)
        image = Image.fromarray(np.asarray(batch.image[row, :height, :width]))
        if flip:
            image = image.transpose(Image.FLIP_LEFT_RIGHT)
        expected = np.asarray(image.resize(size[::-1], Image.BILINEAR), int)
        found = np.asarray(seen.image[row, : size[0], : size[1]], int)
        # Pillow rounds after each of the two axes.
        assert np.abs(found - expected).max() <= (0 if ratio == 1 else 1)


@pytest.mark.parametrize("view", [View(1.0, True), View(0.4, True), View(1.7)])
def test_boxes_go_with_the_image_and_come_back(batch, view):
    height, width = SIZES[1]
    boxes = jnp.array([[[3.0, 4.0, 20.0, 30.0]]] * 2)
    there = view.forth(boxes, batch.image_size)
    np.testing.assert_allclose(view.back(there, batch.image_size), boxes, atol=1e-4)
    high, wide = (round(side * view.ratio) for side in (height, width))
    x = np.array([3, 20]) * wide / width
    x1, x2 = (wide - x)[::-1] if view.flip else x
    expected = [x1, 4 * high / height, x2, 30 * high / height]
    np.testing.assert_allclose(there[1, 0], expected, rtol=1e-5)
    # What reaches over the border ends at it.
    far = jnp.array([[[-9.0, -9.0, 300.0, 300.0]]] * 2)
    whole = view.back(far, batch.image_size)[1, 0]
    np.testing.assert_allclose(whole, [0, 0, width, height], atol=1e-4)


def test_masks_are_mirrored_as_their_boxes():
    masks = jnp.arange(8.0).reshape(1, 1, 2, 4)
    assert View(2.0).masks_back(masks) is masks
    np.testing.assert_array_equal(
        View(2.0, True).masks_back(masks)[0, 0, 0], [3, 2, 1, 0]
    )


@pytest.mark.parametrize(("ratio", "flip"), [(1.0, True), (0.5, True), (1.5, False)])
def test_cells_show_the_same_place_as_before(batch, ratio, flip):
    """A map that says where its cells are in the image says so after the way back."""
    view = View(ratio, flip)
    sizes = view.sizes(batch.image_size)
    grid = 24, 40
    y, x = ((jnp.arange(count) + 0.5) * 4 for count in grid)
    scale = np.asarray(sizes / batch.image_size)
    x = (sizes[1, 1] - x if flip else x) / scale[1, 1]
    seen = jnp.stack(jnp.meshgrid(y / scale[1, 0], x, indexing="ij"), -1)[None]
    run = jax.jit(view.cells_back, static_argnums=(2, 3))
    back = run(jnp.tile(seen, (2, 1, 1, 1)), batch.image_size, (12, 20), 4)
    # Inside, where what lies beyond the border is not mixed in.
    y, x = ((np.arange(1, count) + 0.5) * 4 for count in (7, 9))
    expected = np.stack(np.meshgrid(y, x, indexing="ij"), -1)
    # Pixels; the mean of some cells is not exactly in their middle.
    np.testing.assert_allclose(back[1, 1:7, 1:9], expected, atol=0.2)


def test_a_row_that_only_fills_up_the_batch_is_seen_without_an_error(batch):
    empty = dataclasses.replace(batch, image_size=jnp.zeros((2, 2), jnp.int32))
    seen = jax.jit(View(0.5, True).of)(empty)
    assert seen.image_size.min() == 1
    boxes = View(0.5, True).back(jnp.ones((2, 1, 4)), empty.image_size)
    assert np.isfinite(boxes).all()


def test_each_size_is_looked_at_both_ways():
    views = TestConfig(flip=True, img_ratios=(0.5, 2)).views
    assert views == (View(0.5), View(0.5, True), View(2.0), View(2.0, True))
    for wrong in ((0.0,), (1, 1.0), (20,)):
        with pytest.raises(ValueError, match="img_ratios=.* different numbers"):
            TestConfig(img_ratios=wrong)
