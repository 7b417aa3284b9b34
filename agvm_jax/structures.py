"""Batch and Predictions: what passes between data, models and evaluation.

Conventions, written here once and used everywhere:

* boxes are ``x1 y1 x2 y2`` in absolute pixels of the padded input, float32;
* images are NHWC uint8 and are normalised on the device;
* sizes are (height, width);
* class ids are 0..K-1, and -1 means "ignore"; background exists only inside a head;
* padding rows carry ``valid=False``; a padding *image* carries ``image_id == -1``;
* every array has a static shape: "not chosen" is a mask, never a shorter array.

Letters in shapes: B batch, H W image, N objects an image at most, K classes,
D detections an image at most, m mask side, s a stride or scale.
"""

import dataclasses
from typing import Any

import jax

Array = Any  # numpy on the host, jax.Array on the device


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Images and their annotations, padded to one shape.

    Attributes:
      image: (B, H, W, 3) uint8, RGB. The picture stands in the top left corner; what
        lies outside ``image_size`` is zero.
      image_size: (B, 2) int32, height and width of the picture inside the padding,
        after resizing. A box divided by this and multiplied by the picture's original
        size is in original pixels.
      image_id: (B,) int64 on the host, int32 on the device; -1 for a row that only
        fills the last batch.
      boxes: (B, N, 4) float32.
      classes: (B, N) int32, 0..K-1.
      valid: (B, N) bool, False for padding rows.
      crowd: (B, N) bool. A crowd region is never a target; anchors inside one are
        neither positive nor negative where the detector knows how to ignore.
      masks: None, or (B, N, m, m) uint8, each cropped to its box.
      semantic: None, or (B, H/s, W/s) int32 with -1 for "ignore".
    """

    image: Array
    image_size: Array
    image_id: Array
    boxes: Array
    classes: Array
    valid: Array
    crowd: Array
    masks: Array | None = None
    semantic: Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Predictions:
    """What is found in a batch: detections, best first, padded to one shape, or labels.

    Attributes:
      boxes: (B, D, 4) float32, clipped to ``image_size``. None, like the three after
        it, where nothing but labels is found.
      scores: (B, D) float32 in [0, 1]; 0 in padding rows.
      classes: (B, D) int32, 0..K-1; -1 in padding rows.
      valid: (B, D) bool.
      masks: None, or (B, D, m, m) float32 probabilities, each over its box.
      semantic: None, or (B, s H, s W) int, the class of each of the s x s parts of each
        pixel of the padded input.
    """

    boxes: Array | None = None
    scores: Array | None = None
    classes: Array | None = None
    valid: Array | None = None
    masks: Array | None = None
    semantic: Array | None = None
