"""The generated data set: nothing to download. `shapes_drawing` says what it shows."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.annotations.objects import Annotations
from agvm_jax.data.annotations.segments import Segments
from agvm_jax.data.augment.decode import Turns, no_turns
from agvm_jax.data.formats.files import Sign, digest
from agvm_jax.data.formats.shapes_drawing import (
    VERSION,
    Drawing,
    Style,
    draw_shapes,
    encode_drawing,
    shapes_annotations,
)
from agvm_jax.data.storage.records import FORMAT, MakeOrigin


def recognises(root: pathlib.Path, data_config: Any) -> Sign:
    """Never: no folder belongs to it."""
    del root, data_config
    return Sign(False, "")


def origins(data_config: Any) -> MakeOrigin:
    """Splits of as many images as config.data.shapes says.

    Raises:
      DataError: a key of config.data.shapes is out of its range, or there is a root,
        which nobody would read.
    """
    if data_config.root:
        raise DataError(
            f"config.data.root is {data_config.root}, but config.data.name is 'shapes',"
            " which is generated: set --config.data.name=auto to read that folder, or"
            " --config.data.root= to read none."
        )
    config = data_config.shapes
    counts = {"train": config.train_images, "val": config.val_images}
    for split, count in counts.items():
        if count < 1:
            raise DataError(f"config.data.shapes.{split}_images is {count}, not 1 up.")
    style = Style(
        seed=config.seed,
        image_size=tuple(config.image_size),
        max_objects=config.max_objects,
        stuff=config.stuff,
    )
    return lambda split, categories: ShapesOrigin(split, counts[split], style)


@dataclasses.dataclass(frozen=True)
class ShapesOrigin:
    """A split of the generated set."""

    split: str
    count: int
    style: Style
    name: str = "shapes"
    note: str = ""

    def fingerprint(self) -> str:
        return digest(FORMAT, VERSION, self.split, self.count, self.style)

    def annotations(self) -> Annotations:
        return shapes_annotations(self.style, self.split, self.count)

    def turns(self, annotations: Annotations) -> Turns:
        return no_turns(annotations.sizes)

    def image_sizes(self, annotations: Annotations) -> np.ndarray:
        # JPEG of this noise takes well under two bytes a pixel.
        height, width = self.style.image_size
        return np.full(len(annotations), 2 * height * width)

    def image_bytes(self, annotations: Annotations, index: int) -> bytes:
        return encode_drawing(self._draw(index))

    def segments(self, annotations: Annotations, index: int) -> Segments | None:
        return self._draw(index).segments() if self.style.stuff else None

    def _draw(self, index: int) -> Drawing:
        return draw_shapes(self.style, self.split, index)
