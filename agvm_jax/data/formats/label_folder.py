"""Semantic segmentation from folders: images, and label PNGs of the same names."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.annotations.objects import Annotations
from agvm_jax.data.annotations.segments import Segments, segments_from_labels
from agvm_jax.data.augment.decode import Annotated, Turns, decide_turns
from agvm_jax.data.formats import coco_folder
from agvm_jax.data.formats.files import (
    Sign,
    digest,
    image_names,
    label_listing,
    listing,
    read_file,
    require_folder,
    root_of,
)
from agvm_jax.data.formats.held_out import hold_out, lacks_validation
from agvm_jax.data.formats.label_png import (
    label_size,
    read_label_map,
    read_names,
    void_values,
)
from agvm_jax.data.storage.records import FORMAT, MakeOrigin


def recognises(root: pathlib.Path, data_config: Any) -> Sign:
    """By both folders of the training split.

    Label PNGs beside COCO annotations belong to those.
    """
    images, labels = data_config.train_images, data_config.train_labels
    return Sign(
        (root / images).is_dir()
        and (root / labels).is_dir()
        and not coco_folder.recognises(root, data_config).found,
        f"{images}/ and {labels}/",
    )


def origins(data_config: Any) -> MakeOrigin:
    """The splits by the keys of the config."""
    layout = {"train": (data_config.train_images, data_config.train_labels)}
    remedy = (
        "put it there, or set --config.data.root=PATH and the keys train_images,\n"
        "train_labels, val_images and val_labels of config.data"
    )
    keys = ("val_images", "val_labels")
    if not lacks_validation(data_config, root_of(data_config, remedy), keys):
        layout["val"] = (data_config.val_images, data_config.val_labels)
    usual = Annotated.LIKE_OTHERS
    void = void_values(data_config)
    return label_origins("label_folder", data_config, layout, void, usual, remedy)


def label_origins(
    name: str,
    data_config: Any,
    layout: dict[str, tuple[str, str]],
    void: tuple[int, ...],
    usual: Annotated,
    remedy: str,
) -> MakeOrigin:
    """Origins for each split of a layout; without "val", parts of "train".

    Args:
      name: of the format.
      layout: split -> image folder and label folder, under the root.
      void: values of pixels without a class.
      usual: of which images labels are in this format.
      remedy: what to do where there is no such folder.
    """
    root = root_of(data_config, remedy)
    for images, labels in layout.values():
        require_folder(root / images, "image", remedy)
        require_folder(root / labels, "label", remedy)
    names = read_names(tuple(data_config.label_names), root)
    annotated = Annotated.of(data_config.exif_turns, usual)

    def make(split: str) -> LabelFolderOrigin:
        images, labels = layout[split]
        return LabelFolderOrigin(
            name, split, root / images, root / labels, names, void, annotated
        )

    if "val" not in layout:
        return hold_out(lambda: make("train"), data_config)
    return lambda split, categories: make(split)


@dataclasses.dataclass(frozen=True)
class LabelFolderOrigin:
    """A split that is a folder of images beside a folder of label PNGs.

    A label PNG has its image's size and name (but for the ending), folders in it
    included, and one channel of up to 16 bits, or a palette. Its values that are not
    void stand for the classes in ascending order: with void (255,) value 0 is class 0;
    with void (0,) value 1 is.

    Attributes:
      names: of the classes.
      void: values that mean "nothing to learn here".
    """

    name: str
    split: str
    image_folder: pathlib.Path
    label_folder: pathlib.Path
    names: tuple[str, ...]
    void: tuple[int, ...]
    annotated: Annotated = Annotated.LIKE_OTHERS  # where sizes do not tell
    note: str = ""

    def fingerprint(self) -> str:
        return digest(
            FORMAT,
            self.name,
            self.split,
            self.names,
            self.void,
            self.annotated,
            listing(self.image_folder),
            label_listing(self.label_folder),
        )

    def annotations(self) -> Annotations:
        """Images in the order of their names, numbered from 1; no boxes."""
        files = [n for n in image_names(self.image_folder) if not self._is_label(n)]
        if not files:
            raise DataError(f"There is no image in {self.image_folder}.")
        labelled = {name for name, _ in listing(self.label_folder)}
        missing = [name for name in files if _label_name(name) not in labelled]
        if missing:
            raise DataError(
                f"{len(missing)} of the {len(files)} images in {self.image_folder} have"
                f" no label PNG in {self.label_folder}:"
                f" {', '.join(map(repr, missing[:10]))}{', ...' * (len(missing) > 10)};"
                " add them or remove the images."
            )
        nothing = np.zeros(0, np.int64)
        return Annotations(
            image_ids=np.arange(1, len(files) + 1),
            file_names=files,
            sizes=np.array([label_size(self._label(name)) for name in files], np.int64),
            category_ids=(),
            class_names=(),
            object_ids=nothing,
            object_image=nothing,
            object_class=nothing.astype(np.int32),
            boxes=np.zeros((0, 4)),
            areas=np.zeros(0),
            crowd=nothing.astype(bool),
            segmentations=[],
            stuff_ids=tuple(range(1, len(self.names) + 1)),
            stuff_names=self.names,
        )

    def turns(self, annotations: Annotations) -> Turns:
        """What to do with the images, each of which has the size of its label PNG.

        Raises:
          DataError: one that can be read has another.
        """
        names = annotations.file_names
        files = (self.image_folder / name for name in names)
        turns = decide_turns(files, annotations.sizes, self.annotated)
        known = (turns.seen > 0).all(axis=1)
        others = np.flatnonzero(known & (turns.seen != annotations.sizes).any(axis=1))
        if len(others):
            (height, width), (own_height, own_width) = (
                sizes[others[0]].tolist() for sizes in (turns.seen, annotations.sizes)
            )
            first = names[others[0]]
            raise DataError(
                f"{len(others)} of the {len(names)} images in {self.image_folder} have"
                f" another size than their label PNG, such as {first!r} with"
                f" {width}x{height} pixels and {self._label(first)} with"
                f" {own_width}x{own_height}: give each a PNG of its own size."
            )
        return turns

    def image_sizes(self, annotations: Annotations) -> np.ndarray:
        sizes = dict(listing(self.image_folder))
        labels = dict(listing(self.label_folder))
        return np.array(
            [sizes[name] + labels[_label_name(name)] for name in annotations.file_names]
        )

    def image_bytes(self, annotations: Annotations, index: int) -> bytes:
        return read_file(self.image_folder / annotations.file_names[index])

    def segments(self, annotations: Annotations, index: int) -> Segments:
        path = self._label(annotations.file_names[index])
        size = tuple(annotations.sizes[index].tolist())
        return segments_from_labels(read_label_map(path, size, self.names, self.void))

    def _is_label(self, image_name: str) -> bool:
        """Whether an image is a label PNG: their folder may be that of the images."""
        if self.label_folder == self.image_folder:
            return image_name.lower().endswith(".png")
        return (self.image_folder / image_name).is_relative_to(self.label_folder)

    def _label(self, image_name: str) -> pathlib.Path:
        return self.label_folder / _label_name(image_name)


def _label_name(image_name: str) -> str:
    return pathlib.PurePosixPath(image_name).with_suffix(".png").as_posix()
