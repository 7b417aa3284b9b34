"""The class of each pixel from logits at a coarser stride, in little memory.

At the input's size logits are the largest array of a semantic network: 157 MB an image
of 512x512 pixels and 150 classes, several times over in training. It is never made. A
cell of f x f pixels has f * f kinds of pixels, by their place in the cell, and the
logits of all pixels of one kind are the map moved by one offset (`ops.bilinear`): one
kind is looked at after the other.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Float32, Int, Integer

from .arrays import Array
from .bilinear import between_cells, offsets


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def pixel_cross_entropy(
    logits: Float[Array, "B h w K"], labels: Integer[Array, "B H W"], factor: int
) -> Float32[Array, ""]:
    """Return the sum of the cross entropy over the labelled pixels, float32.

    Each pixel's logits are interpolated bilinearly. The gradient is computed with the
    value, one kind of pixels at a time, so that nothing of the pixels is kept for the
    backward pass.

    Args:
      logits: (B, h, w, K).
      labels: (B, H, W) int, 0..K-1; pixels with any other value do not count.
      factor: f, pixels a cell each way: h = ceil(H / f), w = ceil(W / f).

    Returns:
      A scalar, 0 where no pixel is labelled.

    Raises:
      ValueError: the sizes do not fit each other.
    """

    def add(total, kind):
        return total + _of_kind(_interpolated(logits, kind), kind)[0], None

    return lax.scan(add, jnp.zeros(()), _kinds_of(logits, labels, factor))[0]


def _with_gradient(logits, labels, factor):
    def add(carry, kind):
        total, gradient = carry
        moved, move_back = jax.vjp(lambda x: _interpolated(x, kind), logits)
        more, slope = _of_kind(moved, kind)
        return (total + more, gradient + move_back(slope)[0]), None

    zeros = jnp.zeros(()), jnp.zeros_like(logits)
    (total, gradient), _ = lax.scan(add, zeros, _kinds_of(logits, labels, factor))
    return total, gradient


def _scaled_gradient(factor, gradient, cotangent):
    del factor
    return cotangent.astype(gradient.dtype) * gradient, None


pixel_cross_entropy.defvjp(_with_gradient, _scaled_gradient)


def pixel_classes(
    logits: Float[Array, "B h w K"], size: tuple[int, int], factor: int
) -> Int[Array, "B {size[0]} {size[1]}"]:
    """Return the best class of each pixel, (B, H, W), in the smallest signed integers.

    Args:
      logits: (B, h, w, K); each pixel's are interpolated bilinearly.
      size: (H, W).
      factor: pixels a cell each way, as in `pixel_cross_entropy`.

    Raises:
      ValueError: the sizes do not fit each other.
    """
    _check(logits.shape[1:3], size, factor)
    batch, height, width, count = logits.shape
    kind = jnp.int8 if count <= 128 else jnp.int16 if count <= 2**15 else jnp.int32
    steps = _steps(factor)

    def best(step):
        moved = between_cells(logits, *step)
        return jnp.argmax(moved, axis=-1).astype(kind)

    classes = lax.map(best, steps).reshape(factor, factor, batch, height, width)
    classes = classes.transpose(2, 3, 0, 4, 1)
    classes = classes.reshape(batch, height * factor, width * factor)
    return classes[:, : size[0], : size[1]]


def _of_kind(
    logits: Float[Array, "B h w K"], kind: tuple
) -> tuple[Float32[Array, ""], Float32[Array, "B h w K"]]:
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


def _interpolated(
    logits: Float[Array, "B h w K"], kind: tuple
) -> Float32[Array, "B h w K"]:
    (rows, columns), _ = kind
    return between_cells(logits.astype(jnp.float32), rows, columns)


def _kinds_of(
    logits: Float[Array, "B h w K"], labels: Integer[Array, "B H W"], factor: int
) -> tuple:
    """Return what the loop runs over: offsets ((f f,), (f f,)), labels (f f, B, h, w).

    Labels are padded to whole cells with -1, which does not count.
    """
    _check(logits.shape[1:3], labels.shape[1:], factor)
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


def _steps(
    factor: int,
) -> tuple[Float32[Array, " {factor}**2"], Float32[Array, " {factor}**2"]]:
    """Return the offsets of all kinds of pixels, (f f,) each: rows, columns."""
    rows, columns = jnp.meshgrid(*[offsets(factor)] * 2, indexing="ij")
    return rows.ravel(), columns.ravel()


def _check(cells: tuple[int, ...], pixels: tuple[int, ...], factor: int) -> None:
    """Check that there is a cell for every `factor` pixels, or part of them."""
    if tuple(-(-side // factor) for side in pixels) != tuple(cells):
        raise ValueError(
            f"{tuple(pixels)} pixels do not fit {tuple(cells)} cells of"
            f" {factor}x{factor} pixels"
        )
