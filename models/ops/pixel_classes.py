"""The class of each pixel from logits at a coarser stride, in little memory.

At the input's size logits are the largest array of a semantic network: 157 MB an image
of 512x512 pixels and 150 classes, several times over in training. It is never made. A
cell of f x f pixels has f * f kinds of pixels, by their place in the cell, and the
logits of all pixels of one kind are the map moved by one offset (`ops.bilinear`): one
kind is looked at after the other.
"""

import jax
import jax.numpy as jnp
from jax import lax

from .bilinear import between_cells, offsets


@jax.custom_vjp
def pixel_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the sum of the cross entropy over the labelled pixels, float32.

    Each pixel's logits are interpolated bilinearly. The gradient is computed with the
    value, one kind of pixels at a time, so that nothing of the pixels is kept for the
    backward pass.

    Args:
      logits: (B, h, w, K).
      labels: (B, H, W) int, 0..K-1; pixels with any other value do not count. There
        are f pixels a cell each way, with f the same for both: f (h - 1) < H <= f h,
        and W likewise.

    Returns:
      A scalar, 0 where no pixel is labelled.

    Raises:
      ValueError: the sizes do not fit each other.
    """

    def add(total, kind):
        return total + _of_kind(_interpolated(logits, kind), kind)[0], None

    return lax.scan(add, jnp.zeros(()), _kinds_of(logits, labels))[0]


def _with_gradient(logits, labels):
    def add(carry, kind):
        total, gradient = carry
        moved, move_back = jax.vjp(lambda x: _interpolated(x, kind), logits)
        more, slope = _of_kind(moved, kind)
        return (total + more, gradient + move_back(slope)[0]), None

    zeros = jnp.zeros(()), jnp.zeros_like(logits)
    (total, gradient), _ = lax.scan(add, zeros, _kinds_of(logits, labels))
    return total, gradient


def _scaled_gradient(gradient, cotangent):
    return cotangent.astype(gradient.dtype) * gradient, None


pixel_cross_entropy.defvjp(_with_gradient, _scaled_gradient)


def pixel_classes(logits: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Return the best class of each pixel, (B, H, W) int32.

    Args:
      logits: (B, h, w, K); each pixel's are interpolated bilinearly.
      size: (H, W), f pixels a cell as in `pixel_cross_entropy`.

    Raises:
      ValueError: the sizes do not fit each other.
    """
    factor = _factor(logits.shape[1:3], size)
    batch, height, width, _ = logits.shape
    steps = _steps(factor)

    def best(step):
        moved = between_cells(logits, *step)
        return jnp.argmax(moved, axis=-1).astype(jnp.int32)

    classes = lax.map(best, steps).reshape(factor, factor, batch, height, width)
    classes = classes.transpose(2, 3, 0, 4, 1)
    classes = classes.reshape(batch, height * factor, width * factor)
    return classes[:, : size[0], : size[1]]


def _of_kind(logits: jax.Array, kind: tuple) -> tuple[jax.Array, jax.Array]:
    """Return the sum over (B, h, w) of the cross entropy and its slope (B, h, w, K)."""
    _, labels = kind
    classes = logits.shape[-1]
    counted = (labels >= 0) & (labels < classes)
    hit = labels[..., None] == jnp.arange(classes)
    logits = logits.astype(jnp.float32)
    top = logits.max(axis=-1, keepdims=True)
    powers = jnp.exp(logits - top)
    norm = powers.sum(axis=-1, keepdims=True)
    own = jnp.where(hit, logits - top, 0.0).sum(axis=-1)
    cross_entropy = jnp.log(norm[..., 0]) - own
    slope = jnp.where(counted[..., None], powers / norm - hit, 0.0)
    return jnp.where(counted, cross_entropy, 0.0).sum(), slope


def _interpolated(logits: jax.Array, kind: tuple) -> jax.Array:
    (rows, columns), _ = kind
    return between_cells(logits.astype(jnp.float32), rows, columns)


def _kinds_of(logits: jax.Array, labels: jax.Array) -> tuple:
    """Return what the loop runs over: offsets ((f f,), (f f,)), labels (f f, B, h, w).

    Labels are padded to whole cells with -1, which does not count.
    """
    factor = _factor(logits.shape[1:3], labels.shape[1:])
    batch, height, width, _ = logits.shape
    missing = [
        cells * factor - pixels
        for cells, pixels in zip((height, width), labels.shape[1:], strict=True)
    ]
    labels = jnp.pad(
        labels, [(0, 0), *((0, count) for count in missing)], constant_values=-1
    )
    labels = labels.reshape(batch, height, factor, width, factor)
    labels = labels.transpose(2, 4, 0, 1, 3)
    return _steps(factor), labels.reshape(-1, batch, height, width)


def _steps(factor: int) -> tuple[jax.Array, jax.Array]:
    """Return the offsets of all kinds of pixels, (f f,) each: rows, columns."""
    rows, columns = jnp.meshgrid(*[offsets(factor)] * 2, indexing="ij")
    return rows.ravel(), columns.ravel()


def _factor(cells: tuple[int, ...], pixels: tuple[int, ...]) -> int:
    """Return f, pixels a cell each way."""
    factor = -(-pixels[0] // cells[0])
    if factor < 1 or any(
        -(-side // factor) != count for side, count in zip(pixels, cells, strict=True)
    ):
        raise ValueError(
            f"{tuple(pixels)} pixels are not the same number of pixels each way for"
            f" each of {tuple(cells)} cells"
        )
    return factor
