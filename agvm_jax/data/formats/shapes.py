"""A split of the generated set, as an origin of records."""

import dataclasses

import numpy as np

from agvm_jax.data.annotations.columns import Annotations
from agvm_jax.data.annotations.segments import Segments
from agvm_jax.data.augment.exif import Turns, no_turns
from agvm_jax.data.formats import shapes_drawing
from agvm_jax.data.formats.fingerprints import digest
from agvm_jax.data.storage.records import FORMAT


@dataclasses.dataclass(frozen=True)
class ShapesOrigin:
    """A split of the generated set."""

    split: str
    count: int
    style: shapes_drawing.Style
    name: str = "shapes"
    note: str = ""

    def fingerprint(self) -> str:
        return digest(
            FORMAT, shapes_drawing.VERSION, self.split, self.count, self.style
        )

    def annotations(self) -> Annotations:
        return shapes_drawing.shapes_annotations(self.style, self.split, self.count)

    def turns(self, annotations: Annotations) -> Turns:
        return no_turns(annotations.sizes)

    def image_sizes(self, annotations: Annotations) -> np.ndarray:
        # JPEG of this noise takes well under two bytes a pixel.
        height, width = self.style.image_size
        return np.full(len(annotations), 2 * height * width)

    def image_bytes(self, annotations: Annotations, index: int) -> bytes:
        return shapes_drawing.encode_drawing(self._draw(index))

    def segments(self, annotations: Annotations, index: int) -> Segments | None:
        return self._draw(index).segments() if self.style.stuff else None

    def _draw(self, index: int) -> shapes_drawing.Drawing:
        return shapes_drawing.draw_shapes(self.style, self.split, index)
