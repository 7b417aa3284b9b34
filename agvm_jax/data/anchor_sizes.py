"""Sizes of anchors from the boxes of a data set, where a config leaves them open.

Levels get sizes in equal steps of their logarithm, from the small boxes to the large
ones. No level's are smaller than its stride: between such anchors would be pixels that
none of them covers.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from agvm_jax.data.augment.augmentation import Resizing, still_placement
from agvm_jax.data.augment.decode import Size
from agvm_jax.data.order import oriented
from agvm_jax.data.storage.records import Source

MOST_IMAGES = 2000  # looked at, evenly spread over the split
SMALL, LARGE = 0.05, 0.95  # shares of the boxes that are smaller than small, large ones
TOO_SMALL = 0.1  # share of boxes below the finest stride that is worth a word
MEETS = 0.5  # IoU from which an anchor and a box at one place count as alike


class Seen(NamedTuple):
    """Images and boxes of a split as evaluation sees them.

    Attributes:
      sides: (n, 2) float64 widths and heights of boxes in pixels of the input, crowds
        left out.
      size: median height and width of the images on disk, in pixels.
      scale: median factor by which they are resized.
    """

    sides: np.ndarray
    size: Size
    scale: float


def look(
    source: Source, frame: Size, data_config: Any, most: int = MOST_IMAGES
) -> Seen:
    """Looks at a split whose images are resized into a frame.

    Args:
      source: of at most `most` of its images records are read, none is decoded.
      frame: (height, width) of the padded input.
      data_config: section `data`; how images are resized.
      most: images, evenly spread over the split.
    """
    resizing = Resizing(tuple(data_config.short_sides), data_config.long_side)
    count = min(len(source), most)
    sides, sizes, scales = [np.zeros((0, 2))], [], []
    for index in np.linspace(0, len(source) - 1, count).round().astype(int).tolist():
        example = source[index]
        size = int(example["height"]), int(example["width"])
        turned = oriented(frame, size) if data_config.orientation_group else frame
        placement = still_placement(size, tuple(turned), resizing)
        boxes, left = placement.boxes(example["boxes"][~example["crowd"]])
        sides.append((boxes[:, 2:] - boxes[:, :2])[left].astype(np.float64))
        sizes.append(size)
        scales.append(placement.resized[0] / size[0])
    height, width = np.median(sizes, axis=0).round().astype(int).tolist()
    return Seen(np.concatenate(sides), (height, width), float(np.median(scales)))


def words_of(seen: Seen, finest: int) -> str:
    """Says for people how large images and objects are where a network sees them.

    Args:
      seen: with one box at least.
      finest: pixels from one place of the finest level to the next.

    >>> sides = np.repeat(np.geomspace(4, 64, 101)[:, None], 2, axis=1)
    >>> print(words_of(Seen(sides, (480, 640), 0.5), 8))
    480 x 640 px, seen at 0.5 of that; nine in ten boxes then have sides of 5 to 56 px,
    26% are smaller than 8 px: a larger --config.image_size shows more of them
    """
    sides = np.sqrt(seen.sides.prod(axis=1))
    low, high = np.quantile(sides, (SMALL, LARGE))
    height, width = seen.size
    text = (
        f"{height} x {width} px, seen at {seen.scale:.2g} of that; nine in ten boxes"
        f" then have sides of {low:.0f} to {high:.0f} px"
    )
    if (share := float((sides < finest).mean())) > TOO_SMALL:
        text += (
            f",\n{share:.0%} are smaller than {finest} px: a larger"
            " --config.image_size shows more of them"
        )
    return text


def choose_sizes(sides: np.ndarray, strides: Sequence[int]) -> tuple[float, ...]:
    """Returns a size for each level of a pyramid, in whole pixels.

    Args:
      sides: (n, 2) widths and heights of boxes, n > 0.
      strides: pixels from one place of a level to the next, finest first.

    >>> sides = np.repeat(np.geomspace(10, 160, 101)[:, None], 2, axis=1)
    >>> choose_sizes(sides, (4, 8, 16, 32, 64))
    (11.0, 21.0, 40.0, 75.0, 139.0)
    >>> choose_sizes(sides, (8, 16, 32, 64, 128))
    (11.0, 21.0, 40.0, 75.0, 139.0)
    >>> choose_sizes(sides / 4, (8, 16, 32, 64, 128))
    (8.0, 16.0, 32.0, 64.0, 128.0)
    """
    small, large = np.quantile(np.sqrt(sides.prod(axis=1)), (SMALL, LARGE))
    sizes = np.maximum(np.geomspace(small, large, len(strides)).round(), strides)
    return tuple(sizes.tolist())


def share_met(sides: np.ndarray, anchors: np.ndarray) -> float:
    """Returns the share of boxes like one of the anchors, if it stood at their middle.

    Args:
      sides: (n, 2) widths and heights of boxes, n > 0.
      anchors: (m, 2) those of anchors.

    >>> share_met(np.array([[10.0, 10.0], [40.0, 10.0]]), np.array([[12.0, 12.0]]))
    0.5
    """
    shared = np.minimum(sides[:, None], anchors[None]).prod(axis=2)
    areas = sides.prod(axis=1)[:, None] + anchors.prod(axis=1)[None]
    return float(((shared / (areas - shared)).max(axis=1) >= MEETS).mean())
