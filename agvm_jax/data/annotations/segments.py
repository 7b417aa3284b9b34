"""Segments: which thing or stuff each pixel belongs to; semantic labels follow from it.

One form serves semantic and panoptic segmentation. A picture is a map of segment
numbers, 0 for void and 1..s for its segments, and a class for each segment. Classes
number the things first, 0..K-1 as boxes do, then the stuff, K..K+S-1. In a purely
semantic data set K is 0 and each class is one segment.
"""

import dataclasses
from typing import Any

import cv2
import numpy as np

from agvm_jax.data.annotations.errors import UnreadableImage

IGNORE = -1  # the label of void
THINGS = "things"  # what all thing classes are called where they count as one


@dataclasses.dataclass(frozen=True, eq=False)
class Segments:
    """The segments of one picture.

    Attributes:
      numbers: (h, w) uint8 or uint16, 0 for void, else 1..s.
      classes: (s,) int32, of segments 1..s.
      crowd: (s,) bool.
    """

    numbers: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray

    def labels(self, things: int, merged: bool) -> np.ndarray:
        """The class of each pixel.

        Args:
          things: K, how many classes are things.
          merged: whether all things count as one class, 0, and stuff as 1..S, which
            is what the semantic branch of a panoptic detector learns.

        Returns:
          (h, w) int32, -1 for void. A crowd is labelled as its class is.
        """
        classes = self.classes
        if merged:
            classes = np.where(classes < things, 0, classes - things + 1)
        table = np.concatenate([[IGNORE], classes]).astype(np.int32)
        return table[self.numbers]


def segments_from_labels(labels: np.ndarray) -> Segments:
    """(h, w) integer classes, negative for void -> one segment for each class."""
    # Counting, not sorting: a picture has many pixels and few classes.
    shifted = np.maximum(labels, IGNORE) + 1  # void is 0
    present = np.flatnonzero(np.bincount(shifted.ravel()))
    classes = present[present > 0] - 1
    number_of = np.zeros(present[-1] + 1, _smallest(len(classes)))
    number_of[classes + 1] = np.arange(1, len(classes) + 1)
    return Segments(
        numbers=number_of[shifted],
        classes=classes.astype(np.int32),
        crowd=np.zeros(len(classes), bool),
    )


# The record's fields for a picture without segments.
NO_SEGMENTS = {
    "segments": b"",
    "segment_classes": np.zeros(0, np.int32),
    "segment_crowd": np.zeros(0, bool),
}


def store_segments(segments: Segments) -> dict[str, Any]:
    """The record's fields for the segments of a picture."""
    numbers = segments.numbers.astype(_smallest(len(segments.classes)))
    return {
        "segments": cv2.imencode(".png", numbers)[1].tobytes(),
        "segment_classes": segments.classes,
        "segment_crowd": segments.crowd,
    }


def load_segments(example: dict[str, Any]) -> Segments:
    """What `store_segments` was given.

    Raises:
      UnreadableImage: the record has no segments, or they are damaged.
    """
    data = np.frombuffer(example["segments"], np.uint8)
    numbers = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
    if numbers is None:
        raise UnreadableImage("has no readable segments")
    return Segments(numbers, example["segment_classes"], example["segment_crowd"])


def labels_of(example: dict[str, Any], semantic: str) -> np.ndarray:
    """(h, w) int32 labels of an example's pixels, for a value of config.data.semantic.

    Raises:
      UnreadableImage: as `load_segments`.
    """
    return load_segments(example).labels(example["things"], semantic == "stuff")


def _smallest(segments: int) -> type[np.unsignedinteger]:
    """A PNG's pixel type for so many segments and void."""
    return np.uint8 if segments < 256 else np.uint16
