"""RoIAlign for TPUs: corners are gathered, the rest is two matrix products a box.

A TPU's compiler does not fuse a gather with what reads it, so the corners of all boxes
would be written down: 1.6 GB in bfloat16 for 8 images, twice that for their gradient.
Therefore some boxes of each image are taken at a time, a fixed number of times.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from .roi_corners import find_corners, flatten, gather

# Corners of an image that are gathered at once: 32 MB in bfloat16 with 256 channels.
_CORNERS = 2**16


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def roi_align(features, boxes, valid, settings):
    """Pool; see `ops.roi_align`."""
    dtype = features[0].dtype
    return _pool(features, boxes, valid, settings, dtype).astype(dtype)


@roi_align.defjvp
def _slope(settings, primals, tangents):
    """The map is linear. In float32, so that its transpose adds up in float32."""
    features, boxes, valid = primals
    dtype = features[0].dtype
    slopes = tuple(slope.astype(jnp.float32) for slope in tangents[0])
    value = _pool(features, boxes, valid, settings, dtype)
    tangent = _pool(slopes, boxes, valid, settings, dtype)
    return value.astype(dtype), tangent.astype(dtype)


def _pool(features, boxes, valid, settings, dtype):
    """Return (B, R, P, P, C); corners and weights are multiplied in `dtype`."""
    batch, count = boxes.shape[:2]
    corners = find_corners([f.shape[1:3] for f in features], boxes, valid, settings)
    cells = flatten(features)
    area = corners.place.shape[2] * corners.place.shape[3]
    turns = -(-count * area // _CORNERS)
    at_once = -(-count // min(turns, count))

    def pool(block):
        place, rows, columns = block
        values = gather(cells, place).astype(dtype)
        rows, columns = (_by_bin(w, settings.output_size) for w in (rows, columns))
        lines = jnp.einsum("brpy,bryxc->brpxc", rows.astype(dtype), values)
        return jnp.einsum("brqx,brpxc->brpqc", columns.astype(dtype), lines)

    def cut(array):
        missing = [(0, 0), (0, -count % at_once)] + [(0, 0)] * (array.ndim - 2)
        array = jnp.pad(array, missing)
        return array.reshape(batch, -1, at_once, *array.shape[2:]).swapaxes(0, 1)

    pooled = lax.map(pool, jax.tree.map(cut, corners)).swapaxes(0, 1)
    return pooled.reshape(batch, -1, *pooled.shape[3:])[:, :count]


def _by_bin(weights, bins):
    """Spread weights (B, R, n), bin by bin, over a matrix (B, R, P, n)."""
    own = jnp.repeat(jnp.eye(bins), weights.shape[-1] // bins, axis=1)
    return weights[..., None, :] * own
