"""Arithmetic on boxes: areas, overlaps, the box code of R-CNN, clipping.

Boxes are ``x1 y1 x2 y2`` in pixels, float32 whatever the network computes in: at 1344
pixels bfloat16 knows a coordinate to 4 pixels only. A box whose sides are zero or
negative has area 0 and overlaps nothing.
"""

import math

import jax.numpy as jnp
from jaxtyping import Float, Float32, Num

from .arrays import Array

# A decoded side is at most 1000 / 16 times the anchor's, so that exp cannot overflow
# (the bound of detectron2 and torchvision).
MAX_LOG_RATIO = math.log(1000.0 / 16.0)


def areas(boxes: Num[Array, "*B 4"]) -> Float32[Array, "*B"]:
    """Return the areas of boxes: (..., 4) -> (...), float32.

    >>> areas(jnp.array([[0.0, 0.0, 2.0, 3.0], [5.0, 5.0, 4.0, 9.0]])).tolist()
    [6.0, 0.0]
    """
    boxes = boxes.astype(jnp.float32)
    width = jnp.maximum(boxes[..., 2] - boxes[..., 0], 0.0)
    height = jnp.maximum(boxes[..., 3] - boxes[..., 1], 0.0)
    return width * height


def intersections(
    boxes: Num[Array, "*#B N 4"], others: Num[Array, "*#B M 4"]
) -> Float32[Array, "*#B N M"]:
    """Return the area shared by each pair: (..., N, 4), (..., M, 4) -> (..., N, M)."""
    a = boxes.astype(jnp.float32)[..., :, None, :]
    b = others.astype(jnp.float32)[..., None, :, :]
    width = jnp.minimum(a[..., 2], b[..., 2]) - jnp.maximum(a[..., 0], b[..., 0])
    height = jnp.minimum(a[..., 3], b[..., 3]) - jnp.maximum(a[..., 1], b[..., 1])
    return jnp.maximum(width, 0.0) * jnp.maximum(height, 0.0)


def iou(
    boxes: Num[Array, "*#B N 4"], others: Num[Array, "*#B M 4"]
) -> Float32[Array, "*#B N M"]:
    """Return intersection over union of each pair.

    Two boxes of area 0 have IoU 0, not NaN.

    Args:
      boxes: (..., N, 4).
      others: (..., M, 4).

    Returns:
      (..., N, M) float32 in [0, 1].

    >>> iou(jnp.array([[0.0, 0.0, 2.0, 2.0]]), jnp.array([[1.0, 0.0, 3.0, 2.0]])).item()
    0.3333333432674408
    """
    shared = intersections(boxes, others)
    union = areas(boxes)[..., :, None] + areas(others)[..., None, :] - shared
    return jnp.where(union > 0.0, shared / jnp.where(union > 0.0, union, 1.0), 0.0)


def coverage(
    boxes: Num[Array, "*#B N 4"], regions: Num[Array, "*#B M 4"]
) -> Float32[Array, "*#B N M"]:
    """Return the share of each box's own area that lies inside each region.

    This is COCO's overlap with a crowd region: the region may be as large as it
    likes without making the overlap smaller.

    Args:
      boxes: (..., N, 4).
      regions: (..., M, 4).

    Returns:
      (..., N, M) float32 in [0, 1]; 0 for boxes of area 0.
    """
    shared = intersections(boxes, regions)
    own = areas(boxes)[..., :, None]
    return jnp.where(own > 0.0, shared / jnp.where(own > 0.0, own, 1.0), 0.0)


def _centres(boxes):
    """Return centre x, centre y, width and height, each (...)."""
    width = boxes[..., 2] - boxes[..., 0]
    height = boxes[..., 3] - boxes[..., 1]
    x = boxes[..., 0] + 0.5 * width
    y = boxes[..., 1] + 0.5 * height
    return x, y, width, height


def encode(
    boxes: Num[Array, "*B 4"],
    anchors: Num[Array, "*B 4"],
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
) -> Float32[Array, "*B 4"]:
    """Return the deltas that turn `anchors` into `boxes` (R-CNN, appendix C).

    ``dx = wx (x - xa) / wa``, ``dw = ww log(w / wa)`` and so for y and h. Both need
    positive sides: a box without area has no code, replace it before.

    Args:
      boxes: (..., 4), the targets.
      anchors: (..., 4).
      weights: multiplies dx, dy, dw, dh.

    Returns:
      (..., 4) float32.

    >>> anchor = jnp.array([0.0, 0.0, 10.0, 10.0])
    >>> encode(jnp.array([5.0, 0.0, 15.0, 10.0]), anchor).tolist()
    [0.5, 0.0, 0.0, 0.0]
    """
    x, y, width, height = _centres(boxes.astype(jnp.float32))
    anchor_x, anchor_y, anchor_width, anchor_height = _centres(
        anchors.astype(jnp.float32)
    )
    return jnp.stack(
        [
            weights[0] * (x - anchor_x) / anchor_width,
            weights[1] * (y - anchor_y) / anchor_height,
            weights[2] * jnp.log(width / anchor_width),
            weights[3] * jnp.log(height / anchor_height),
        ],
        axis=-1,
    )


def decode(
    deltas: Float[Array, "*B 4"],
    anchors: Num[Array, "*B 4"],
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
) -> Float32[Array, "*B 4"]:
    """Return the boxes that `deltas` make of `anchors`: the inverse of `encode`.

    Args:
      deltas: (..., 4).
      anchors: (..., 4).
      weights: those that the deltas were encoded with.

    Returns:
      (..., 4) float32, not clipped to any image.

    >>> anchor = jnp.array([0.0, 0.0, 10.0, 10.0])
    >>> decode(jnp.array([0.5, 0.0, 0.0, 0.0]), anchor).tolist()
    [5.0, 0.0, 15.0, 10.0]
    """
    deltas = deltas.astype(jnp.float32)
    anchor_x, anchor_y, anchor_width, anchor_height = _centres(
        anchors.astype(jnp.float32)
    )
    x = deltas[..., 0] / weights[0] * anchor_width + anchor_x
    y = deltas[..., 1] / weights[1] * anchor_height + anchor_y
    log_width = jnp.minimum(deltas[..., 2] / weights[2], MAX_LOG_RATIO)
    log_height = jnp.minimum(deltas[..., 3] / weights[3], MAX_LOG_RATIO)
    half_width = 0.5 * jnp.exp(log_width) * anchor_width
    half_height = 0.5 * jnp.exp(log_height) * anchor_height
    return jnp.stack(
        [x - half_width, y - half_height, x + half_width, y + half_height], axis=-1
    )


def clip(
    boxes: Num[Array, "*B N 4"], image_size: Num[Array, "*B 2"]
) -> Float32[Array, "*B N 4"]:
    """Return boxes cut off at the borders of their image.

    Args:
      boxes: (..., N, 4).
      image_size: (..., 2), height and width of the image inside the padding.

    Returns:
      (..., N, 4) float32.

    >>> clip(jnp.array([[-3.0, 1.0, 9.0, 9.0]]), jnp.array([4, 8])).tolist()
    [[0.0, 1.0, 8.0, 4.0]]
    """
    size = jnp.asarray(image_size).astype(jnp.float32)
    height, width = size[..., 0], size[..., 1]
    limit = jnp.stack([width, height, width, height], axis=-1)[..., None, :]
    return jnp.clip(boxes.astype(jnp.float32), 0.0, limit)
