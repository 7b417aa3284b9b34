"""A split that is a COCO annotation file and a folder of images."""

import dataclasses
import functools
import os
import pathlib

import numpy as np

from agvm_jax.data.annotations.columns import Annotations
from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.annotations.segments import Segments
from agvm_jax.data.augment.exif import Annotated, Turns, decide_turns
from agvm_jax.data.formats.coco_json import read_coco
from agvm_jax.data.formats.coco_panoptic import Panoptic, read_panoptic
from agvm_jax.data.formats.coco_stuff import SemanticFiles
from agvm_jax.data.formats.fingerprints import digest, file_digest, listing
from agvm_jax.data.storage.records import FORMAT


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
            [listing(folder) for folder in self.listed or (self.image_folder,)],
            self.annotated,
            self.categories,
            self.panoptic_file
            and (
                file_digest(self.panoptic_file),
                listing(self.panoptic_file.with_suffix("")),
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
        files = (self.image_folder / name for name in annotations.file_names)
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
        path = self.image_folder / annotations.file_names[index]
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}.") from None
