"""From uint8 pixels to the network's input, on the device."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Float, Integer, UInt8

from .arrays import Array


def normalize_images(
    image: UInt8[Array, "B H W 3"],
    image_size: Integer[Array, "B 2"],
    mean: Sequence[float],
    std: Sequence[float],
    dtype=jnp.float32,
) -> Float[Array, "B H W 3"]:
    """Return ``(image - mean) / std`` with zeros outside the images.

    The padding is zero *after* normalisation, as in torchvision and detectron2: it
    then looks like the mean colour and not like black.

    Args:
      image: (B, H, W, 3) uint8, RGB.
      image_size: (B, 2) int32, height and width of each image in its corner.
      mean: of each channel, on the scale 0 to 255.
      std: of each channel, on the same scale.
      dtype: of the result; the arithmetic is float32.

    Returns:
      (B, H, W, 3).

    >>> image = jnp.full((1, 1, 2, 3), 30, jnp.uint8)
    >>> size = jnp.array([[1, 1]])
    >>> normalize_images(image, size, (10, 20, 30), (10, 10, 10))[0, 0].tolist()
    [[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    height, width = image.shape[1:3]
    mean = jnp.asarray(mean, jnp.float32).reshape(1, 1, 1, 3)
    std = jnp.asarray(std, jnp.float32).reshape(1, 1, 1, 3)
    pixels = (image.astype(jnp.float32) - mean) / std
    rows = jnp.arange(height)[None, :, None] < image_size[:, 0, None, None]
    columns = jnp.arange(width)[None, None, :] < image_size[:, 1, None, None]
    inside = (rows & columns)[..., None]  # (B, H, W, 1)
    return jnp.where(inside, pixels, 0.0).astype(dtype)
