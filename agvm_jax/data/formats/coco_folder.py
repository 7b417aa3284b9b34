"""COCO-format folders: an annotation file and a folder of images for each split.

The keys of the config say what is called what. Where there is no file of that name,
train/ and valid/ of Roboflow are looked for. `coco` and `lvis` are such folders with
names of their own.
"""

import dataclasses
import functools
import os
import pathlib
from typing import Any

import numpy as np

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.annotations.objects import Annotations
from agvm_jax.data.annotations.segments import Segments
from agvm_jax.data.augment.decode import Annotated, Turns, decide_turns
from agvm_jax.data.formats.coco_json import read_coco
from agvm_jax.data.formats.coco_panoptic import Panoptic, read_panoptic
from agvm_jax.data.formats.coco_stuff import SemanticFiles
from agvm_jax.data.formats.files import (
    Sign,
    digest,
    file_digest,
    label_listing,
    listing,
    read_file,
    require_folder,
    root_of,
)
from agvm_jax.data.formats.held_out import hold_out, lacks_validation
from agvm_jax.data.formats.label_png import read_names, void_values
from agvm_jax.data.storage.records import FORMAT, MakeOrigin

# What Roboflow calls the annotations of each split, beside its images.
ROBOFLOW = "_annotations.coco.json"


def recognises(root: pathlib.Path, data_config: Any) -> Sign:
    """By the annotation file of the training split."""
    named = data_config.train_annotations
    exported = f"train/{ROBOFLOW}"
    return Sign(
        (root / named).is_file() or (root / exported).is_file(),
        f"{named} and {data_config.train_images}/, or {exported}",
    )


def origins(data_config: Any) -> MakeOrigin:
    """The splits by the keys of the config, or as Roboflow exports them."""
    remedy = (
        "put it there, or set --config.data.root=PATH and the keys train_annotations,\n"
        "val_annotations, train_images and val_images of config.data"
    )
    config, root = data_config, root_of(data_config, remedy)
    exported = {
        split: SplitNames(f"{folder}/{ROBOFLOW}", folder)
        for split, folder in (("train", "train"), ("val", "valid"))
        if (root / folder / ROBOFLOW).is_file()
    }
    if "train" in exported and not (root / config.train_annotations).is_file():
        layout = exported
    else:
        layout = {
            "train": SplitNames(
                config.train_annotations,
                config.train_images,
                config.train_panoptic,
                config.train_labels,
            )
        }
        there = (root / config.val_annotations).is_file()
        if there or not lacks_validation(
            config, root, ("val_annotations", "val_images")
        ):
            layout["val"] = SplitNames(
                config.val_annotations,
                config.val_images,
                config.val_panoptic,
                config.val_labels,
            )
    usual = Annotated.LIKE_OTHERS
    return split_origins("coco_folder", config, layout, usual, remedy)


@dataclasses.dataclass(frozen=True)
class SplitNames:
    """Names of a split's files and folders, under the root; "" for none."""

    annotations: str
    images: str
    panoptic: str = ""
    labels: str = ""


def split_origins(
    name: str,
    data_config: Any,
    layout: dict[str, SplitNames],
    usual: Annotated,
    remedy: str,
) -> MakeOrigin:
    """Origins for each split of a layout; without "val", parts of "train".

    The panoptic file is looked at when the config asks for semantic labels, and the
    folder of label PNGs, where one is named, when there is no panoptic file.
    """
    root = root_of(data_config, remedy)
    panoptic: dict[str, pathlib.Path] = {}
    semantic: dict[str, SemanticFiles] = {}
    for split, names in layout.items():
        if not (root / names.annotations).is_file():
            raise DataError(
                f"There is no annotation file {root / names.annotations}: {remedy}."
            )
        require_folder(root / names.images, "image", remedy)
        if data_config.semantic == "none":
            continue
        if names.panoptic and (root / names.panoptic).is_file():
            panoptic[split] = root / names.panoptic
        elif names.labels and (root / names.labels).is_dir():
            semantic[split] = SemanticFiles(
                root / names.labels,
                read_names(tuple(data_config.label_names), root),
                void_values(data_config),
            )
        else:
            raise DataError(_no_labels(data_config, root, names))
    if panoptic and semantic:
        raise DataError(
            f"The {next(iter(panoptic))} split of {root} has a panoptic file and the"
            f" {next(iter(semantic))} split has label PNGs: their stuff classes cannot"
            " be compared; give both splits the same."
        )
    annotated = Annotated.of(data_config.exif_turns, usual)

    def make(split: str, categories: dict[int, str] | None) -> CocoOrigin:
        return CocoOrigin(
            name,
            split,
            root / layout[split].annotations,
            root / layout[split].images,
            categories,
            panoptic.get(split),
            semantic.get(split),
            annotated,
        )

    if "val" not in layout:
        return hold_out(lambda: make("train", None), data_config)
    return make


def _no_labels(data_config: Any, root: pathlib.Path, names: SplitNames) -> str:
    """What to say where semantic labels are asked for and not there."""
    asked = f"config.data.semantic is {data_config.semantic!r}, but"
    if not names.panoptic:
        return f"{asked} this set has no semantic labels; set it to none."
    either = f" nor a label folder {root / names.labels}" if names.labels else ""
    return (
        f"{asked} there is no panoptic annotation file {root / names.panoptic}{either}:"
        " add it and the folder of PNGs of the same name, or set config.data.semantic"
        " to none."
    )


@dataclasses.dataclass(frozen=True)
class CocoOrigin:
    """A split that is a COCO annotation file and a folder of images."""

    name: str
    split: str
    annotation_file: pathlib.Path
    image_folder: pathlib.Path
    categories: dict[int, str] | None = None
    panoptic_file: pathlib.Path | None = None
    semantic_files: SemanticFiles | None = None  # instead of a panoptic file
    annotated: Annotated = Annotated.LIKE_OTHERS  # where sizes in the file do not tell
    listed: tuple[pathlib.Path, ...] = ()  # folders with the images; (): image_folder
    note: str = ""

    def fingerprint(self) -> str:
        """Digest of the annotation file and of the images' names and sizes."""
        return digest(
            FORMAT,
            self.name,
            self.split,
            file_digest(self.annotation_file),
            list(map(listing, self.listed or (self.image_folder,))),
            self.annotated,
            self.categories,
            self.panoptic_file
            and (
                file_digest(self.panoptic_file),
                label_listing(self.panoptic_file.with_suffix("")),
            ),
            # Nothing where there are none: sets prepared before there could be any
            # keep their names.
            *(self.semantic_files.fingerprint() if self.semantic_files else ()),
        )

    def annotations(self) -> Annotations:
        annotations = read_coco(self.annotation_file, self.categories)
        # Files without sizes: the pictures know. One that cannot be read keeps (0, 0),
        # loses its boxes, and is reported; the pipeline will skip it.
        if (annotations.sizes == 0).any():
            annotations.sizes[:] = self.turns(annotations).sizes
        if self._panoptic:
            annotations = dataclasses.replace(
                annotations,
                stuff_ids=self._panoptic.stuff_ids,
                stuff_names=self._panoptic.stuff_names,
            )
        elif self.semantic_files:
            annotations = dataclasses.replace(
                annotations,
                stuff_ids=self.semantic_files.stuff_ids(annotations.category_ids),
                stuff_names=self.semantic_files.names,
            )
        return annotations

    def turns(self, annotations: Annotations) -> Turns:
        files = [self.image_folder / name for name in annotations.file_names]
        return decide_turns(files, annotations.sizes, self.annotated)

    def image_sizes(self, annotations: Annotations) -> np.ndarray:
        sizes, absent = [], []
        for name in annotations.file_names:
            path = self.image_folder / name
            if os.path.isfile(path):  # False, not an error, for impossible names
                sizes.append(path.stat().st_size)
            else:
                absent.append(name)
        if absent:
            raise DataError(
                f"{len(absent)} of the {len(annotations)} images that"
                f" {self.annotation_file} lists are not in {self.image_folder}:"
                f" {', '.join(map(repr, absent[:10]))}{', ...' * (len(absent) > 10)};"
                " add them or remove their entries."
            )
        if self._panoptic:
            self._panoptic.require(annotations.image_ids)
            ids = annotations.image_ids.tolist()
            sizes = [
                size + self._panoptic.bytes_of(i)
                for i, size in zip(ids, sizes, strict=True)
            ]
        elif self.semantic_files:
            self.semantic_files.require(annotations)
            sizes = [
                size + self.semantic_files.bytes_of(name)
                for name, size in zip(annotations.file_names, sizes, strict=True)
            ]
        return np.array(sizes)

    def segments(self, annotations: Annotations, index: int) -> Segments | None:
        if self.semantic_files:
            return self.semantic_files.segments(annotations, index)
        if not self._panoptic:
            return None
        image_id = int(annotations.image_ids[index])
        return self._panoptic.segments(
            image_id, tuple(annotations.sizes[index].tolist())
        )

    @functools.cached_property
    def _panoptic(self) -> Panoptic | None:
        """Read when first asked for: opening a prepared set needs none of it."""
        if self.panoptic_file is None:
            return None
        things = self.categories
        if things is None:
            own = read_coco(self.annotation_file)
            things = dict(zip(own.category_ids, own.class_names, strict=True))
        return read_panoptic(self.panoptic_file, things)

    def image_bytes(self, annotations: Annotations, index: int) -> bytes:
        return read_file(self.image_folder / annotations.file_names[index])
