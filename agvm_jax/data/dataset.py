"""Open the data set that config.data names: `open_dataset`."""

import dataclasses
import pathlib
from typing import Any

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.annotations.segments import THINGS
from agvm_jax.data.formats.builder_keys import root_of
from agvm_jax.data.formats.builders import BUILDERS
from agvm_jax.data.formats.layout import AUTO, detect_layout
from agvm_jax.data.storage.prepare import open_split
from agvm_jax.data.storage.records import Source


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Two prepared splits with the same classes.

    Attributes:
      name: of the builder: config.data.name, or what was detected.
      class_names: K names; class k of a Batch is class_names[k].
      category_ids: K original ids, for results that other tools read.
      stuff_names, stuff_ids: the same of S classes that have segments but no boxes.
      train, val: see `records.Source`.
      max_boxes: objects an image keeps in a batch: config.data.max_boxes.
    """

    name: str
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    stuff_names: tuple[str, ...]
    stuff_ids: tuple[int, ...]
    train: Source
    val: Source
    max_boxes: int

    def label_names(self, semantic: str) -> tuple[str, ...]:
        """Names of Batch.semantic's labels, for a value of config.data.semantic."""
        things = (THINGS,) if semantic == "stuff" else self.class_names
        return things + self.stuff_names

    @property
    def report(self) -> list[str]:
        """What both splits hold and what was mended, as lines to print."""
        first = f"{self.name}: {len(self.class_names)} classes"
        if self.stuff_names:
            first += f" with boxes, {len(self.stuff_names)} without"
        lines = [first]
        for source in (self.train, self.val):
            first, *rest = source.report.lines()
            lines.append(f"  {source.card.split}: {first}")
            if source.note:
                lines.append(f"    {source.note}")
            lines += [f"    {line}" for line in rest]
        if self.class_names and not self.train.report.boxes:
            lines.append("  no image of the train split has a box: nothing to detect")
        most = self.train.report.most_boxes
        if most > self.max_boxes:
            lines.append(
                f"  training keeps {self.max_boxes} objects an image, of more a random"
                f" choice: data.max_boxes={most} keeps all"
            )
        return lines


def open_dataset(data_config: Any) -> Dataset:
    """Open, and on first use prepare, the data set of the config section `data`.

    Args:
      data_config: anything with the attributes of `configs.base`'s section `data`.

    Raises:
      DataError: one sentence on what is wrong with the data and what to do.
    """
    name = data_config.name
    if name == AUTO:
        if pathlib.Path(data_config.root).suffix in (".yaml", ".yml"):
            name = "yolo"  # the root may be its data.yaml
        else:
            root = root_of(data_config, "set --config.data.root=PATH to the data set")
            name = detect_layout(root, data_config)
    if name not in BUILDERS:
        raise DataError(
            f"config.data.name is {name!r}; there are {', '.join(sorted(BUILDERS))},"
            f" and {AUTO}, which looks at the folder."
        )
    make_origin = BUILDERS[name](data_config)
    masks = data_config.mask_size > 0
    train = open_split(make_origin("train", None), data_config.cache_dir, masks)
    categories = dict(zip(train.card.category_ids, train.card.class_names, strict=True))
    val = open_split(make_origin("val", categories), data_config.cache_dir, masks)
    if data_config.semantic != "none":
        for source in (train, val):
            _require_segments(source, data_config.semantic)
    if data_config.mask_size:
        for source in (train, val):
            _require_masks(source, data_config.mask_size)
    return Dataset(
        name=name,
        class_names=train.card.class_names,
        category_ids=train.card.category_ids,
        stuff_names=train.card.stuff_names,
        stuff_ids=train.card.stuff_ids,
        train=train,
        val=val,
        max_boxes=data_config.max_boxes,
    )


def _require_masks(source: Source, mask_size: int) -> None:
    """A box without a mask would teach that nothing is there.

    Those that had a segmentation of which nothing is left are left out and reported; a
    set where others have none was not made for this.
    """
    report = source.report
    bare = report.boxes - report.masks - report.lost_masks
    if bare or (report.boxes and not report.masks):
        raise DataError(
            f"config.data.mask_size is {mask_size}, but"
            f" {report.boxes - report.masks} of the {report.boxes} boxes of the"
            f" {source.card.split} split of {source.card.name} have no usable"
            " segmentation; add them, remove those boxes, or set mask_size to 0."
        )


def _require_segments(source: Source, semantic: str) -> None:
    """Semantic labels need segments."""
    if not source.card.stuff_names:
        raise DataError(
            f"config.data.semantic is {semantic!r}, but {source.card.name} has no stuff"
            " classes to learn; for the generated set, set data.shapes.stuff to True."
        )
