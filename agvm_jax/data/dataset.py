"""Open the data set that config.data names: `open_dataset`."""

import dataclasses
import pathlib
from typing import Any

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.annotations.segments import THINGS
from agvm_jax.data.formats import (
    ade20k,
    coco,
    coco_folder,
    label_folder,
    lvis,
    shapes,
    yolo,
)
from agvm_jax.data.formats.foreign import foreign_name, label_folders
from agvm_jax.data.storage.prepare import open_split
from agvm_jax.data.storage.records import Source

# Value of config.data.name -> the file that says `recognises(root, data_config)` and
# `origins(data_config)`: a new format is one line here.
FORMATS = {
    "shapes": shapes,
    "coco": coco,
    "coco_folder": coco_folder,
    "lvis": lvis,
    "ade20k": ade20k,
    "label_folder": label_folder,
    "yolo": yolo,
}
AUTO = "auto"  # the name that asks for the format that recognises config.data.root
# Without a name it is asked for where there is a root; else the set is generated.


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Two prepared splits with the same classes.

    Attributes:
      name: of the format: config.data.name, or what was found.
      reason: how it was found; "": it was named.
      class_names: K names; class k of a Batch is class_names[k].
      category_ids: K original ids, for results that other tools read.
      stuff_names, stuff_ids: the same of S classes that have segments but no boxes.
      train, val: see `records.Source`.
      max_boxes: objects an image keeps in a batch: config.data.max_boxes.
    """

    name: str
    reason: str
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
        if self.reason:
            first += f" ({self.reason})"
        lines = [first]
        for source in (self.train, self.val):
            first, *rest = source.report.lines()
            lines.append(f"  {source.card.split}: {first}")
            if source.note:
                lines.append(f"    {source.note}")
            lines += [f"    {line}" for line in rest]
            if source.kept is not None:
                lines.append(
                    f"    {source.card.images - len(source)} images without an object"
                    " left out (data.filter_empty)"
                )
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
    name, reason = data_config.name, ""
    if name == AUTO or (not name and data_config.root):
        name, reason = find_format(data_config)
    name = name or "shapes"
    if name not in FORMATS:
        raise DataError(
            f"config.data.name is {name!r}; there are {', '.join(sorted(FORMATS))},"
            f" and {AUTO}, which looks at the folder."
        )
    make_origin = FORMATS[name].origins(data_config)
    masks = data_config.mask_size > 0
    train = open_split(make_origin("train", None), data_config.cache_dir, masks)
    categories = dict(zip(train.card.category_ids, train.card.class_names, strict=True))
    val = open_split(make_origin("val", categories), data_config.cache_dir, masks)
    _require_same_stuff(name, train, val)
    if data_config.filter_empty:
        train = train.with_objects()
        if not len(train):
            raise DataError(
                f"config.data.filter_empty leaves no image: the train split of {name}"
                " has no object that is not a crowd; set it to False."
            )
    if data_config.semantic != "none":
        for source in (train, val):
            _require_segments(source, data_config.semantic)
    if data_config.mask_size:
        for source in (train, val):
            _require_masks(source, data_config.mask_size)
    return Dataset(
        name=name,
        reason=reason,
        class_names=train.card.class_names,
        category_ids=train.card.category_ids,
        stuff_names=train.card.stuff_names,
        stuff_ids=train.card.stuff_ids,
        train=train,
        val=val,
        max_boxes=data_config.max_boxes,
    )


def find_format(data_config: Any) -> tuple[str, str]:
    """Which format config.data.root is of, and how that was found.

    The names that the config gives to files and folders are looked for.

    Raises:
      DataError: there is no root, or it is of no format, or of several.
    """
    if not data_config.root:
        raise DataError(
            "config.data.root is empty: set --config.data.root=PATH to the data set."
        )
    root = pathlib.Path(data_config.root).expanduser()
    signs = {name: one.recognises(root, data_config) for name, one in FORMATS.items()}
    found = [name for name, sign in signs.items() if sign.found]
    if len(found) == 1:
        return found[0], f"found by {signs[found[0]].looked_for}"
    if found:
        listed = " or as ".join(f"{k} (by {signs[k].looked_for})" for k in found)
        raise DataError(
            f"{root} could be read as {listed}: say which with"
            f" --config.data.name={found[0]}, for one."
        )
    if not root.is_dir():
        raise DataError(
            f"There is no data folder {root}: set --config.data.root=PATH to the data"
            " set."
        )
    for sign in signs.values():
        if sign.wrong:
            raise DataError(sign.wrong)
    raise DataError(_remedy_for(root, signs, data_config))


def _remedy_for(root: pathlib.Path, signs: dict[str, Any], data_config: Any) -> str:
    """What to do with a folder of no format that is known."""
    if foreign := foreign_name(root):
        return (
            f"{root} holds annotations of {foreign}, which are not read: docs/data.md,"
            ' "Other layouts", has the lines that convert them.'
        )
    images = data_config.train_images
    if labels := label_folders(root, images):
        return (
            f"{root} is of no format that is known, but the PNGs of {labels[0]}/ have"
            f" the names of the images of {images}/: for labels of pixels use --config"
            " configs/semantic_fpn_folder.py with --config.data.train_labels="
            f"{labels[0]}, and --config.data.val_labels likewise."
        )
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        for name, one in FORMATS.items():
            if one.recognises(folder, data_config).found:
                return (
                    f"{root} is of no format that is known, but {folder.name}/ in it is"
                    f" of {name}: set --config.data.root={folder}."
                )
    listed = "; ".join(
        f"{sign.looked_for} ({name})" for name, sign in signs.items() if sign.looked_for
    )
    return (
        f"{root} is of no format that is known. For training it would hold {listed}."
        " Put it so, or set --config.data.name=NAME and the keys of config.data that"
        " name files."
    )


def _require_same_stuff(name: str, train: Source, val: Source) -> None:
    """Stuff is numbered by its place in a split's list, so the lists are the same."""
    ours, theirs = (
        dict(zip(source.card.stuff_ids, source.card.stuff_names, strict=True))
        for source in (train, val)
    )
    differing = sorted(i for i, _ in ours.items() ^ theirs.items())
    if differing:
        first = differing[0]
        raise DataError(
            f"The splits of {name} have different stuff categories: {first} is"
            f" {ours.get(first, 'absent')!r} in train and"
            f" {theirs.get(first, 'absent')!r} in val; both files need the same ones."
        )


def _require_masks(source: Source, mask_size: int) -> None:
    """A box without a mask would teach that nothing is there.

    Those that had a segmentation of which nothing is left are left out and reported; a
    set where others have none was not made for this.
    """
    report = source.card.report
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
