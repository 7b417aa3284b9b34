"""Normalisation of pixels on the device."""

import chex
import jax.numpy as jnp
import numpy as np

from models.ops.images import normalize_images

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def test_pixels_are_centred_and_scaled_channel_by_channel():
    image = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
    size = jnp.array([[4, 6], [4, 6]])
    expected = (image.astype(np.float32) - np.float32(MEAN)) / np.float32(STD)
    pixels = normalize_images(jnp.asarray(image), size, MEAN, STD)
    chex.assert_trees_all_close(np.asarray(pixels), expected, atol=1e-6)


def test_padding_is_zero_after_normalisation_whatever_it_held():
    image = jnp.full((2, 4, 6, 3), 200, jnp.uint8)
    pixels = normalize_images(image, jnp.array([[3, 2], [4, 6]]), MEAN, STD)
    assert not pixels[0, 3:].any() and not pixels[0, :, 2:].any()
    assert (pixels[0, :3, :2] != 0).all() and (pixels[1] != 0).all()


def test_the_result_takes_the_compute_dtype():
    image = jnp.zeros((1, 2, 2, 3), jnp.uint8)
    pixels = normalize_images(image, jnp.array([[2, 2]]), MEAN, STD, jnp.bfloat16)
    assert pixels.dtype == jnp.bfloat16
