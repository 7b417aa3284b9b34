"""RoIAlign over a pyramid: the features under each box, at a fixed size.

He et al. 2017 ("Mask R-CNN"), section 3. Each bin of the output is the mean of a few
bilinear samples; each box is read from the one level that fits its size (Lin et al.
2017, "Feature Pyramid Networks", equation 1). Equal to torchvision's `roi_align` and
`MultiScaleRoIAlign`.

Here each sample gathers its four corners, for all boxes of all levels and images at
once. The sums are float32, also those that the gradient scatters.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32, Num

from .arrays import Array
from .forms import pick
from .roi_corners import find_corners, flatten, gather
from .roi_sampling import RoiSettings


def roi_align(
    features: Sequence[Float[Array, "B _ _ C"]],
    boxes: Num[Array, "B R 4"],
    valid: Bool[Array, "B R"] | None = None,
    *,
    strides: Sequence[int],
    output_size: int,
    sampling_ratio: int = 2,
    aligned: bool = False,
) -> Float[Array, "B R {output_size} {output_size} C"]:
    """Return the features under each box as a map of P x P bins.

    Differentiable in the features; the boxes are taken as constants, as everywhere.

    Args:
      features: one (B, H_l, W_l, C) array a level, finest first.
      boxes: (B, R, 4), pixels of the padded input.
      valid: (B, R) bool, or None for all; the others give zeros.
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
    settings = RoiSettings(strides, output_size, sampling_ratio, aligned)
    if valid is None:
        valid = jnp.ones(boxes.shape[:2], bool)
    boxes = boxes.astype(jnp.float32)
    return pick("roi_align", _align)(tuple(features), boxes, valid, settings)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _align(features, boxes, valid, settings):
    return _gather(features, boxes, valid, settings).astype(features[0].dtype)


@_align.defjvp
def _slope(settings, primals, tangents):
    """The map is linear. In float32, so that its transpose adds up in float32."""
    _, boxes, valid = primals
    slopes = tuple(slope.astype(jnp.float32) for slope in tangents[0])
    value = _align(*primals, settings)
    return value, _gather(slopes, boxes, valid, settings).astype(value.dtype)


def _gather(
    features: Sequence[Float[Array, "B _ _ C"]],
    boxes: Float32[Array, "B R 4"],
    valid: Bool[Array, "B R"],
    settings: RoiSettings,
) -> Float32[Array, "B R P P C"]:
    """Return (B, R, P, P, C) float32."""
    grids = [feature.shape[1:3] for feature in features]
    corners = find_corners(grids, boxes, valid, settings)
    # One gather of all corners, so that its transpose is one scatter.
    values = gather(flatten(features), corners.place).astype(jnp.float32)
    values *= (corners.rows[..., None] * corners.columns[..., None, :])[..., None]
    bins = settings.output_size  # what a bin reads stands together
    down, across = (side // bins for side in corners.place.shape[2:])
    values = values.reshape(*boxes.shape[:2], bins, down, bins, across, -1)
    return values.sum((3, 5))
