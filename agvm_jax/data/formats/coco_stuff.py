"""Semantic label PNGs beside COCO boxes and masks: together they are panoptic."""

import dataclasses
import pathlib

import numpy as np

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.annotations.objects import Annotations, windows
from agvm_jax.data.annotations.segments import THINGS, Segments, segments_from_labels
from agvm_jax.data.formats.files import label_listing
from agvm_jax.data.formats.label_png import read_label_map


@dataclasses.dataclass(frozen=True)
class SemanticFiles:
    """A folder of label PNGs, named as the images of a COCO split are.

    Values are as in detectron2's preparation of panoptic COCO: the first that is not
    void means "some thing", the others are the stuff classes in order. Which thing a
    pixel belongs to is said by the instances' masks; where two overlap, by the smaller
    one. A thing pixel that no instance covers is void.

    Attributes:
      folder: of the PNGs.
      names: of the stuff classes.
      void: values without a class.
    """

    folder: pathlib.Path
    names: tuple[str, ...]
    void: tuple[int, ...]

    def fingerprint(self) -> tuple[object, ...]:
        """What the segments depend on."""
        return self.names, self.void, label_listing(self.folder)

    def require(self, annotations: Annotations) -> None:
        """Raise DataError unless every image has a PNG and every object a mask.

        Objects that lost theirs are let pass: they have a segment without a pixel.
        """
        absent = [n for n in annotations.file_names if not self._path(n).is_file()]
        if absent:
            raise DataError(
                f"{len(absent)} of the {len(annotations)} images have no label PNG in"
                f" {self.folder}: {', '.join(map(repr, absent[:10]))}"
                f"{', ...' * (len(absent) > 10)}; add them, or set"
                " config.data.semantic to none."
            )
        report = annotations.report()
        bare = report.boxes - report.masks - report.lost_masks
        if bare:
            raise DataError(
                f"{bare} of the {report.boxes} boxes have no"
                f" segmentation, which the label PNGs in {self.folder} need to tell"
                " things apart; add them, or set config.data.semantic to none."
            )

    def bytes_of(self, file_name: str) -> int:
        """Size of an image's PNG."""
        return self._path(file_name).stat().st_size

    def stuff_ids(self, category_ids: tuple[int, ...]) -> tuple[int, ...]:
        """Ids for the stuff classes: the files have none, so the next that are free."""
        first = max(category_ids) + 1
        return tuple(range(first, first + len(self.names)))

    def segments(self, annotations: Annotations, index: int) -> Segments:
        """The segments of one image: its stuff classes, then its objects.

        Raises:
          DataError: the PNG is damaged, has another size, or an unknown value.
        """
        things = len(annotations.class_names)
        labels = read_label_map(
            self._path(annotations.file_names[index]),
            tuple(annotations.sizes[index].tolist()),
            (THINGS, *self.names),
            self.void,
        )
        stuff = segments_from_labels(np.where(labels > 0, labels - 1 + things, -1))
        numbers = stuff.numbers.astype(np.uint16)
        objects, bitmaps = annotations.objects(index), annotations.bitmaps(index)
        corners = windows(objects["boxes"]).tolist()
        for k in np.argsort([-bitmap.sum() for bitmap in bitmaps], kind="stable"):
            x1, y1, x2, y2 = corners[k]
            inside = bitmaps[k] & (labels[y1:y2, x1:x2] == 0)
            numbers[y1:y2, x1:x2][inside] = len(stuff.classes) + 1 + k
        return Segments(
            numbers=numbers,
            classes=np.concatenate([stuff.classes, objects["classes"]]),
            crowd=np.concatenate([stuff.crowd, objects["crowd"]]),
        )

    def _path(self, file_name: str) -> pathlib.Path:
        return self.folder / pathlib.PurePath(file_name).with_suffix(".png")
