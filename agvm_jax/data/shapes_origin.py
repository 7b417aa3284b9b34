"""A split of the generated set, as an origin of records."""

import dataclasses

import numpy as np

from agvm_jax.data import shapes
from agvm_jax.data.annotations import Annotations
from agvm_jax.data.exif import Turns, no_turns
from agvm_jax.data.fingerprints import digest
from agvm_jax.data.records import FORMAT
from agvm_jax.data.segments import Segments


@dataclasses.dataclass(frozen=True)
class ShapesOrigin:
    """A split of the generated set."""

    split: str
    count: int
    style: shapes.Style
    name: str = "shapes"
    note: str = ""

    def fingerprint(self) -> str:
        return digest(FORMAT, shapes.VERSION, self.split, self.count, self.style)

    def annotations(self) -> Annotations:
        return shapes.shapes_annotations(self.style, self.split, self.count)

    def turns(self, annotations: Annotations) -> Turns:
        return no_turns(annotations.sizes)

    def image_sizes(self, annotations: Annotations) -> np.ndarray:
        # JPEG of this noise takes well under two bytes a pixel.
        height, width = self.style.image_size
        return np.full(len(annotations), 2 * height * width)

    def image_bytes(self, annotations: Annotations, index: int) -> bytes:
        return shapes.encode_drawing(self._draw(index))

    def segments(self, annotations: Annotations, index: int) -> Segments | None:
        return self._draw(index).segments() if self.style.stuff else None

    def _draw(self, index: int) -> shapes.Drawing:
        return shapes.draw_shapes(self.style, self.split, index)
