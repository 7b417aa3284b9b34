"""RoIAlign over a pyramid: the features under each box, at a fixed size.

He et al. 2017 ("Mask R-CNN"), section 3. Each bin of the output is the mean of a few
bilinear samples; each box is read from the one level that fits its size (Lin et al.
2017, "Feature Pyramid Networks", equation 1). Equal to torchvision's `roi_align` and
`MultiScaleRoIAlign`.

A bilinear sample weighs rows and columns apart, and so does a mean of them on a grid:
the output is ``Y F X^T`` with a small matrix of weights for each axis. So there are two
matrix products a box and, in the gradient, two more; no gather and no scatter, which
take ten times as long on a CPU and are no friends of a TPU. The boxes are sorted by
level and taken in chunks, as many as each level has: a box costs the rows of its own
level only, and the memory is that of one chunk.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .boxes import areas

# Lin et al. 2017, section 4.2: a box of 224 x 224, the size that ImageNet is trained
# at, is read from P4.
CANONICAL_SIZE = 224.0
CANONICAL_STRIDE = 16.0
# Boxes that go through at once: a chunk holds chunk * P * W * C products.
_CHUNK = 32


def assign_levels(boxes: jax.Array, strides: Sequence[int]) -> jax.Array:
    """Return which level each box is read from (Lin et al. 2017, equation 1).

    A box of half the side is read from the next finer level.

    Args:
      boxes: (..., 4).
      strides: pixels a cell of each level stands for, each twice the one before.

    Returns:
      (...) int32 in 0..len(strides) - 1; boxes of area 0 are at the finest level.

    >>> boxes = jnp.array([[0.0, 0.0, 224.0, 224.0], [0.0, 0.0, 100.0, 100.0]])
    >>> assign_levels(boxes, (4, 8, 16, 32)).tolist()
    [2, 0]
    """
    # In this order, because a box on the border of two levels must round as theirs.
    side = jnp.log2(jnp.sqrt(areas(boxes)) / CANONICAL_SIZE)
    level = jnp.floor(float(np.log2(CANONICAL_STRIDE)) + side + 1e-6)
    # log2(0) is -inf: clipped before the cast, which has no such number.
    level = jnp.clip(level - float(np.log2(strides[0])), 0, len(strides) - 1)
    return level.astype(jnp.int32)


def axis_weights(
    start: jax.Array,
    end: jax.Array,
    length: int,
    *,
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
) -> jax.Array:
    """Return how much of each cell each bin takes, along one axis.

    A sample more than one cell outside of the map counts as 0; one nearer to it takes
    the value of the border.

    Args:
      start: (R,) lower side of each box, in cells.
      end: (R,) upper side.
      length: n, cells of the map along this axis.
      output_size: P, bins.
      sampling_ratio: see `roi_align`.
      aligned: see `roi_align`.

    Returns:
      (R, P, n) float32; the weights of a bin that lies inside add up to 1.
    """
    shift = 0.5 if aligned else 0.0
    size = end - start
    if not aligned:
        size = jnp.maximum(size, 1.0)  # as the first RoIAlign had it
    if sampling_ratio > 0:
        most, samples = sampling_ratio, jnp.full_like(size, sampling_ratio)
    else:
        most = -(-length // output_size) + 1
        samples = jnp.clip(jnp.ceil(size / output_size), 1.0, most)
    size, samples = size[:, None, None], samples[:, None, None]
    sample = jnp.arange(most, dtype=jnp.float32)
    step = jnp.arange(output_size, dtype=jnp.float32)[:, None]  # (P, 1)
    bin_size = size / output_size
    position = start[:, None, None] - shift + step * bin_size
    position = position + (sample + 0.5) * (bin_size / samples)  # (R, P, most)
    counted = (position >= -1.0) & (position <= length) & (sample < samples)
    position = jnp.clip(position, 0.0, length - 1.0)[..., None]
    distance = jnp.abs(position - jnp.arange(length, dtype=jnp.float32))
    tent = jnp.where(counted[..., None], jnp.maximum(1.0 - distance, 0.0), 0.0)
    return tent.sum(axis=2) / samples


def roi_align(
    features: Sequence[jax.Array],
    boxes: jax.Array,
    *,
    strides: Sequence[int],
    output_size: int,
    sampling_ratio: int = 2,
    aligned: bool = False,
) -> jax.Array:
    """Return the features under each box as a map of P x P bins.

    Differentiable in the features; the boxes are taken as constants, as everywhere.

    Args:
      features: one (B, H_l, W_l, C) array a level, finest first.
      boxes: (B, R, 4), pixels of the padded input.
      strides: pixels a cell of each level stands for, each twice the one before.
      output_size: P.
      sampling_ratio: samples a bin along each axis. 0: as many as the bin has cells,
        up to those of a box as large as the map.
      aligned: pixels are areas, so sampled positions move by half a cell. torchvision's
        detectors do without, and a box is then at least one cell wide.

    Returns:
      (B, R, P, P, C) in the features' dtype.

    Raises:
      ValueError: levels and strides do not fit together, or a size is out of range.

    >>> feature = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> box = jnp.array([[[0.0, 0.0, 16.0, 16.0]]])
    >>> pooled = roi_align([feature], box, strides=(4,), output_size=2, aligned=True)
    >>> pooled[0, 0, :, :, 0].tolist()
    [[2.5, 4.5], [10.5, 12.5]]
    """
    strides = tuple(strides)
    if len(features) != len(strides) or any(
        coarse != 2 * fine for fine, coarse in zip(strides, strides[1:], strict=False)
    ):
        raise ValueError(
            f"{len(features)} levels with strides {strides}: one stride a level, each "
            "twice the one before, is needed"
        )
    if output_size < 1 or sampling_ratio < 0:
        raise ValueError(
            f"output_size {output_size} must be at least 1 and sampling_ratio "
            f"{sampling_ratio} at least 0"
        )
    settings = (strides, output_size, sampling_ratio, aligned)
    return _align(tuple(features), boxes.astype(jnp.float32), settings)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _align(features, boxes, settings):
    strides, output_size, _, _ = settings
    num_boxes, channels = boxes.shape[1], features[0].shape[-1]

    def pool_image(image):
        maps, boxes = image
        order, boxes, bounds = _by_level(boxes, strides)
        shape = (boxes.shape[0], output_size, output_size, channels)
        pooled = jnp.zeros(shape, features[0].dtype)
        for level, feature in enumerate(maps):

            def pool_chunk(place, pooled, level=level, feature=feature):
                rows, columns = _weights(boxes, place, feature, settings, level)
                rows = rows.astype(feature.dtype)
                columns = columns.astype(feature.dtype)
                lines = jnp.einsum("rph,hwc->rpwc", rows, feature)
                chunk = jnp.einsum("rqw,rpwc->rpqc", columns, lines)
                # What lies beyond this level's boxes is written again by the next one.
                return lax.dynamic_update_slice_in_dim(pooled, chunk, place, 0)

            pooled = _for_chunks(bounds[level], bounds[level + 1], pool_chunk, pooled)
        return pooled[jnp.argsort(order)[:num_boxes]]

    return lax.map(pool_image, (features, boxes))


def _forward(features, boxes, settings):
    # The map is linear: its gradient needs the features' shapes and nothing else.
    shapes = tuple(jnp.zeros((*f.shape[:3], 0), f.dtype) for f in features)
    return _align(features, boxes, settings), (shapes, boxes)


def _backward(settings, residuals, cotangent):
    shapes, boxes = residuals
    channels = cotangent.shape[-1]

    def spread_image(image):
        maps, boxes, cotangent = image
        order, boxes, bounds = _by_level(boxes, settings[0])
        missing = boxes.shape[0] - cotangent.shape[0]
        cotangent = jnp.pad(cotangent, ((0, missing), *[(0, 0)] * 3))[order]
        gradients = []
        for level, empty in enumerate(maps):

            def spread_chunk(place, gradient, level=level, empty=empty):
                rows, columns = _weights(boxes, place, empty, settings, level)
                # Boxes of other levels at the end of the chunk add nothing.
                own = place + jnp.arange(_CHUNK) < bounds[level + 1]
                rows = jnp.where(own[:, None, None], rows, 0.0).astype(empty.dtype)
                columns = columns.astype(empty.dtype)
                chunk = lax.dynamic_slice_in_dim(cotangent, place, _CHUNK)
                lines = jnp.einsum("rqw,rpqc->rpwc", columns, chunk)
                share = jnp.einsum(
                    "rph,rpwc->hwc", rows, lines, preferred_element_type=jnp.float32
                )
                return gradient + share

            gradient = jnp.zeros((*empty.shape[:2], channels), jnp.float32)
            gradient = _for_chunks(
                bounds[level], bounds[level + 1], spread_chunk, gradient
            )
            gradients.append(gradient.astype(empty.dtype))
        return tuple(gradients)

    return lax.map(spread_image, (shapes, boxes, cotangent)), jnp.zeros_like(boxes)


_align.defvjp(_forward, _backward)


def _by_level(boxes, strides):
    """Sort an image's boxes (R, 4) by level.

    Returns:
      order: (R + chunk,) rows of the sorted boxes; the end is padding.
      boxes: (R + chunk, 4) in that order.
      bounds: (L + 1,) where each level starts, and where the last one ends.
    """
    level = assign_levels(boxes, strides)
    order = jnp.argsort(level, stable=True)
    bounds = jnp.searchsorted(level[order], jnp.arange(len(strides) + 1))
    order = jnp.concatenate([order, boxes.shape[0] + jnp.arange(_CHUNK)])
    boxes = jnp.pad(boxes, ((0, _CHUNK), (0, 0)))
    return order, boxes[order], bounds


def _weights(boxes, place, feature, settings, level):
    """Return the weights of rows (chunk, P, H) and of columns (chunk, P, W)."""
    strides, output_size, sampling_ratio, aligned = settings
    chunk = lax.dynamic_slice_in_dim(boxes, place, _CHUNK) * (1.0 / strides[level])
    make = functools.partial(
        axis_weights,
        output_size=output_size,
        sampling_ratio=sampling_ratio,
        aligned=aligned,
    )
    height, width = feature.shape[:2]
    rows = make(chunk[:, 1], chunk[:, 3], height)
    return rows, make(chunk[:, 0], chunk[:, 2], width)


def _for_chunks(start, end, update, state):
    """Return `state` after ``state = update(place, state)`` for each chunk's start."""
    return lax.while_loop(
        lambda loop: loop[0] < end,
        lambda loop: (loop[0] + _CHUNK, update(loop[0], loop[1])),
        (start, state),
    )[1]
