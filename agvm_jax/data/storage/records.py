"""A prepared split on disk: what its records and its card hold, and random access."""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import tensorflow_datasets as tfds

from agvm_jax.data.annotations.errors import DataError, UnreadableImage
from agvm_jax.data.annotations.ground_truth import coco_dictionary
from agvm_jax.data.annotations.objects import Annotations
from agvm_jax.data.annotations.report import Report
from agvm_jax.data.annotations.segments import Segments, labels_of
from agvm_jax.data.augment.decode import Turns, decode_image
from agvm_jax.data.storage.panoptic_truth import PanopticTruth

FORMAT = 7  # raise it when the records change: old sets are then prepared anew
SIZES = "sizes.npy"  # (I, 2) height and width of each image, zeros where unknown
OBJECTS = "objects.npy"  # (I,) objects of each image that are no crowd
CARD = "agvm.json"  # what the set holds; written last, so its presence means whole

FEATURES = {
    "image": tfds.features.Image(shape=(None, None, 3)),
    "file_name": tfds.features.Text(),
    "image_id": tfds.features.Scalar(np.int64),
    "height": tfds.features.Scalar(np.int64),
    "width": tfds.features.Scalar(np.int64),
    "turn": tfds.features.Scalar(np.int64),  # of the decoded image: decode.turn
    "boxes": tfds.features.Tensor(shape=(None, 4), dtype=np.float32),
    "classes": tfds.features.Tensor(shape=(None,), dtype=np.int32),
    "crowd": tfds.features.Tensor(shape=(None,), dtype=np.bool_),
    "area": tfds.features.Tensor(shape=(None,), dtype=np.float32),
    "masks": tfds.features.Text(),  # bytes of objects.pack; the boxes tell the sizes
    # Which segment each pixel belongs to, and what that is: segments.store_segments.
    "segments": tfds.features.Text(),
    "segment_classes": tfds.features.Tensor(shape=(None,), dtype=np.int32),
    "segment_crowd": tfds.features.Tensor(shape=(None,), dtype=np.bool_),
}

Example = dict[str, Any]


class Origin(Protocol):
    """Where a split comes from, before it is prepared."""

    name: str  # of the data set
    split: str  # "train" or "val"
    note: str  # what a person should know of how it was found; "": nothing

    def fingerprint(self) -> str:
        """Hex digest of everything that the records depend on."""

    def annotations(self) -> Annotations:
        """Read or make the annotations; slow, and not kept."""

    def turns(self, annotations: Annotations) -> Turns:
        """How the images have to be turned to be those that were annotated."""

    def image_sizes(self, annotations: Annotations) -> np.ndarray:
        """(I,) bytes each encoded image takes; raises DataError for absent ones."""

    def image_bytes(self, annotations: Annotations, index: int) -> bytes:
        """The encoded image."""

    def segments(self, annotations: Annotations, index: int) -> Segments | None:
        """The segments of an image, where the data set has them."""


# What a format makes of a config: (split, categories of the training split or None) ->
# the split's origin.
MakeOrigin = Callable[[str, dict[int, str] | None], Origin]


@dataclasses.dataclass(frozen=True)
class Card:
    """What a prepared split holds: the content of its `agvm.json`."""

    name: str
    split: str
    images: int
    category_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    stuff_ids: tuple[int, ...]
    stuff_names: tuple[str, ...]  # classes with segments only, numbered after those
    report: Report
    files: dict[str, int]  # name -> bytes, to tell a damaged set from a whole one


class Source:
    """A prepared split: random access to encoded images and their boxes.

    `source[i]` is a dict: image (encoded bytes), file_name, image_id, height and width
    (of the annotated picture), turn (for `decode.decode_image`), boxes (n, 4) float32
    x1 y1 x2 y2 in original pixels, classes (n,) int32, crowd (n,) bool, area (n,)
    float32, things (how many classes have boxes), masks (bytes for `objects.unpack`),
    and what `segments.load_segments` reads. Order and length are the annotation file's.

    Attributes:
      folder, card: where it lies, and what it holds.
      learns_masks: whether objects without a usable mask are no ground truth.
      kept: (I,) which images of the annotation file these are; None: all.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        card: Card,
        origin: Origin,
        learns_masks: bool = False,
        kept: np.ndarray | None = None,
    ):
        self.folder = folder
        self.learns_masks = learns_masks
        self.card = card
        self.kept = kept
        self._origin = origin
        self._records = tfds.builder_from_directory(folder).as_data_source(
            card.split, decoders={"image": tfds.decode.SkipDecoding()}
        )

    def __len__(self) -> int:
        return self.card.images if self.kept is None else len(self.kept)

    def __getitem__(self, index: int) -> Example:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        index %= len(self)
        if self.kept is not None:
            index = int(self.kept[index])
        try:
            example = self._records[index]
        except Exception as error:  # array_record raises bare RuntimeErrors
            raise DataError(
                f"Record {index} in {self.folder} cannot be read ({error}); delete that"
                " folder, and the next run prepares it anew."
            ) from error
        example["file_name"] = example["file_name"].decode()
        example["things"] = len(self.card.class_names)
        return example

    @property
    def sizes(self) -> np.ndarray:
        """(I, 2) height and width of every image, without reading their records."""
        sizes = np.load(self.folder / SIZES)
        return sizes if self.kept is None else sizes[self.kept]

    def with_objects(self) -> "Source":
        """The same split without the images that have no object, or crowds alone.

        `ground_truth` and `report` are still those of all images.
        """
        kept = np.flatnonzero(np.load(self.folder / OBJECTS))
        return Source(self.folder, self.card, self._origin, self.learns_masks, kept)

    @property
    def note(self) -> str:
        """What a person should know of how the split was found; "": nothing."""
        return self._origin.note

    @property
    def report(self) -> Report:
        """Counts of what was kept, mended and dropped."""
        return self.card.report

    def ground_truth(self) -> dict[str, Any]:
        """The COCO dictionary of the original annotations, read again.

        It lists the objects that the records hold. No image is opened, unless the
        annotations leave out its size.
        """
        return coco_dictionary(self._origin.annotations(), self.learns_masks)

    @functools.cached_property
    def index_of(self) -> dict[int, int]:
        """Image id -> where it stands in the split, in its order."""
        ids = self._origin.annotations().image_ids
        ids = (ids if self.kept is None else ids[self.kept]).tolist()
        return {image_id: index for index, image_id in enumerate(ids)}

    def image(self, image_id: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB as annotated; black where it cannot be read."""
        example = self[self.index_of[image_id]]
        size = (example["height"], example["width"])
        try:
            return decode_image(example["image"], size, turn_code=example["turn"])
        except UnreadableImage:
            return np.zeros((*size, 3), np.uint8)

    def labels(self, image_id: int, semantic: str) -> np.ndarray:
        """(H, W) int32 labels of an original picture, -1 for void.

        Args:
          semantic: a value of config.data.semantic, "stuff" or "all".

        Raises:
          UnreadableImage: the record has no segments, or they are damaged.
        """
        return labels_of(self[self.index_of[image_id]], semantic)

    def panoptic_truth(self) -> PanopticTruth:
        """The split's panoptic ground truth, in COCO's form."""
        return PanopticTruth(self)


def read_card(folder: pathlib.Path) -> Card | None:
    """The card of a whole set, or None when the set is absent or damaged."""
    try:
        content = json.loads((folder / CARD).read_text("utf-8"))
        content["report"] = Report(**content["report"])
        content["category_ids"] = tuple(content["category_ids"])
        content["class_names"] = tuple(content["class_names"])
        content["stuff_ids"] = tuple(content["stuff_ids"])
        content["stuff_names"] = tuple(content["stuff_names"])
        card = Card(**content)
        sizes = {name: (folder / name).stat().st_size for name in card.files}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return card if sizes == card.files else None


def write_card(
    origin: Origin, annotations: Annotations, report: Report, part: pathlib.Path
) -> Card:
    """Write the card, and see to it that all of `part` is on the disk."""
    card = Card(
        name=origin.name,
        split=origin.split,
        images=report.images,
        category_ids=annotations.category_ids,
        class_names=annotations.class_names,
        stuff_ids=annotations.stuff_ids,
        stuff_names=annotations.stuff_names,
        report=report,
        files={f.name: f.stat().st_size for f in sorted(part.iterdir())},
    )
    content = json.dumps(dataclasses.asdict(card), indent=1)
    (part / CARD).write_text(content, "utf-8")
    for file in [*part.iterdir(), part]:
        flush_to_disk(file)
    return card


def flush_to_disk(path: pathlib.Path) -> None:
    """fsync, so that the rename never overtakes the content."""
    if os.name == "nt" and path.is_dir():  # Windows cannot open folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
