"""RoIAlign for the CPU, by matrix products and without gather or scatter.

A bilinear sample weighs rows and columns apart, and so does a mean of them on a grid:
the output is ``Y F X^T`` with a small matrix of weights for each axis. So there are two
matrix products a box and, in the gradient, two more; gather and scatter take ten times
as long.

A box is small beside a large map: 20 x 20 cells of 128 x 128 at 512 px. So boxes are
taken in chunks of neighbours, by level and by place, and a chunk reads one window of
the map, in which all of its boxes lie. A chunk that no window holds reads the whole
map; the result is the same. Boxes that do not count cost nothing.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..ops.roi_sampling import (
    AxisSamples,
    assign_levels,
    axis_samples,
    axis_weights,
)
from .roi_windows import axis_window, reading_order

_CHUNK = 8  # boxes that go through at once
# Cells along each side of what a chunk reads, the least that holds it. A box has 14 to
# 28 cells a side on its level; the rest is the distance between neighbours.
_WINDOWS = (48, 96)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def roi_align(features, boxes, valid, settings):
    """Pool; see `ops.roi_align`. Differentiable once, in reverse."""
    _, output_size, _, _ = settings
    num_boxes, channels = boxes.shape[1], features[0].shape[-1]

    def pool_image(image):
        maps, boxes, valid = image
        order, chunks_of_level = _chunks(boxes, valid, maps, settings)
        shape = (num_boxes + _CHUNK, output_size, output_size, channels)
        pooled = jnp.zeros(shape, features[0].dtype)
        for feature, chunks in zip(maps, chunks_of_level, strict=True):

            def pool_chunk(chunk, pooled, feature=feature):
                size = (*chunk.size, channels)
                view = lax.dynamic_slice(feature, (*chunk.first, 0), size)
                rows = chunk.rows.astype(feature.dtype)
                columns = chunk.columns.astype(feature.dtype)
                lines = jnp.einsum("rph,hwc->rpwc", rows, view)
                bins = jnp.matmul(columns[:, None], lines)  # (chunk, P, P, C)
                # What lies beyond this level's boxes is written again by the next one.
                return lax.dynamic_update_slice_in_dim(pooled, bins, chunk.place, 0)

            pooled = _for_chunks(chunks, pool_chunk, pooled)
        return pooled[jnp.argsort(order)]

    return lax.map(pool_image, (features, boxes, valid))


def _forward(features, boxes, valid, settings):
    # The map is linear: its gradient needs the features' shapes and nothing else.
    shapes = tuple(jnp.zeros((*f.shape[:3], 0), f.dtype) for f in features)
    return roi_align(features, boxes, valid, settings), (shapes, boxes, valid)


def _backward(settings, residuals, cotangent):
    shapes, boxes, valid = residuals
    channels = cotangent.shape[-1]

    def spread_image(image):
        maps, boxes, valid, cotangent = image
        order, chunks_of_level = _chunks(boxes, valid, maps, settings)
        cotangent = jnp.pad(cotangent[order], ((0, _CHUNK), *[(0, 0)] * 3))
        gradients = []
        for empty, chunks in zip(maps, chunks_of_level, strict=True):

            def spread_chunk(chunk, gradient, empty=empty):
                bins = lax.dynamic_slice_in_dim(cotangent, chunk.place, _CHUNK)
                rows = chunk.rows.astype(empty.dtype)
                columns = chunk.columns.astype(empty.dtype)
                lines = jnp.matmul(columns.swapaxes(1, 2)[:, None], bins)
                share = jnp.einsum(
                    "rph,rpwc->hwc", rows, lines, preferred_element_type=jnp.float32
                )
                first = (*chunk.first, 0)
                share += lax.dynamic_slice(gradient, first, share.shape)
                return lax.dynamic_update_slice(gradient, share, first)

            gradient = jnp.zeros((*empty.shape[:2], channels), jnp.float32)
            gradient = _for_chunks(chunks, spread_chunk, gradient)
            gradients.append(gradient.astype(empty.dtype))
        return tuple(gradients)

    gradients = lax.map(spread_image, (shapes, boxes, valid, cotangent))
    return gradients, jnp.zeros_like(boxes), None


roi_align.defvjp(_forward, _backward)


class _Chunk(NamedTuple):
    """Boxes of one level that are read together.

    Attributes:
      place: () int32, the first of them in the order of reading.
      first: two () int32, the upper left cell of their window.
      size: (h, w) of the window.
      rows: (chunk, P, h) float32 weights; 0 for boxes of another level.
      columns: (chunk, P, w) float32 weights.
    """

    place: jax.Array
    first: tuple[jax.Array, jax.Array]
    size: tuple[int, int]
    rows: jax.Array
    columns: jax.Array


class _LevelChunks(NamedTuple):
    """The chunks of one level, M at most, those with the smallest window first.

    Attributes:
      places: (M,) int32, where each chunk starts.
      samples: of rows and of columns, (M, chunk, P, S).
      sizes: the sizes of windows, the whole map the last.
      firsts: (M,) upper left cells, a pair for each size.
      queue: (M,) int32, the chunks by size.
      limits: (len(sizes) + 1,) where each size starts in the queue.
    """

    places: jax.Array
    samples: tuple[AxisSamples, AxisSamples]
    sizes: list[tuple[int, int]]
    firsts: list[tuple[jax.Array, jax.Array]]
    queue: jax.Array
    limits: jax.Array


def _chunks(boxes, valid, maps, settings):
    """Return the order in which boxes (R, 4) are read, and the chunks of each level."""
    strides = settings.strides
    num_boxes = boxes.shape[0]
    # Beyond the last level nobody is read.
    levels = jnp.where(valid, assign_levels(boxes, strides), len(strides))
    order = reading_order(boxes, levels, _CHUNK)
    boxes = boxes[order]
    bounds = jnp.searchsorted(levels[order], jnp.arange(len(strides) + 1))
    found = []
    for level, feature in enumerate(maps):
        places = bounds[level] + jnp.arange(0, num_boxes, _CHUNK)
        members = places[:, None] + jnp.arange(_CHUNK)  # (M, chunk)
        own = members < bounds[level + 1]
        cells = boxes[jnp.minimum(members, num_boxes - 1)] * (1.0 / strides[level])
        whole = feature.shape[:2]
        samples = tuple(
            axis_samples(
                cells[..., 1 - axis],
                cells[..., 3 - axis],
                whole[axis],
                settings,
                longest=whole[axis],
            )
            for axis in (0, 1)
        )
        samples = tuple(
            axis._replace(share=axis.share * own[..., None, None]) for axis in samples
        )
        sizes = [tuple(min(n, window) for n in whole) for window in _WINDOWS]
        sizes = list(dict.fromkeys([*sizes, whole]))
        firsts = []
        kind = jnp.full(places.shape, len(sizes))  # chunks without boxes go nowhere
        for index, size in reversed(list(enumerate(sizes))):
            windows = [
                axis_window(samples[axis], whole[axis], size[axis]) for axis in (0, 1)
            ]
            first, fits = zip(*windows, strict=True)
            firsts.insert(0, first)
            kind = jnp.where(own[:, 0] & fits[0] & fits[1], index, kind)
        queue = jnp.argsort(kind)
        limits = jnp.searchsorted(kind[queue], jnp.arange(len(sizes) + 1))
        found.append(_LevelChunks(places, samples, sizes, firsts, queue, limits))
    return order, found


def _for_chunks(chunks, update, state):
    """Return `state` after ``state = update(chunk, state)`` for each chunk."""
    for kind, size in enumerate(chunks.sizes):

        def turn(index, state, kind=kind, size=size):
            which = chunks.queue[index]
            rows, columns = jax.tree.map(lambda array: array[which], chunks.samples)
            first = tuple(cell[which] for cell in chunks.firsts[kind])
            chunk = _Chunk(
                place=chunks.places[which],
                first=first,
                size=size,
                rows=axis_weights(rows, first[0], size[0]),
                columns=axis_weights(columns, first[1], size[1]),
            )
            return update(chunk, state)

        state = lax.fori_loop(chunks.limits[kind], chunks.limits[kind + 1], turn, state)
    return state
