"""Read COCO panoptic annotations: one JSON, and a PNG of segment ids for each image."""

import dataclasses
import functools
import pathlib
import threading

import cv2
import numpy as np

from agvm_jax.data.annotations.errors import DataError, UnreadableImage
from agvm_jax.data.annotations.segments import Segments
from agvm_jax.data.augment.decode import check_whole
from agvm_jax.data.formats.files import (
    check_file_name,
    is_text,
    load_json,
    object_list,
    short,
    whole_number,
)
from agvm_jax.panoptic_png import ids_of_colors

_NO_SEGMENT = 2**16 - 1


@dataclasses.dataclass(frozen=True, eq=False)
class Panoptic:
    """The panoptic annotations of a split.

    Attributes:
      stuff_ids, stuff_names: of the S categories that are no things, by their ids.
    """

    stuff_ids: tuple[int, ...]
    stuff_names: tuple[str, ...]
    _folder: pathlib.Path
    _entries: dict[int, tuple[str, np.ndarray, np.ndarray, np.ndarray]]

    def require(self, image_ids: np.ndarray) -> None:
        """Raise DataError unless every image has its annotation and its PNG."""
        missing = [i for i in image_ids.tolist() if i not in self._entries]
        if missing:
            raise DataError(
                f"{len(missing)} images have no entry in {self._folder}.json: ids"
                f" {short(missing)}."
            )
        absent = [
            name
            for name, *_ in (self._entries[i] for i in image_ids.tolist())
            if not (self._folder / name).is_file()
        ]
        if absent:
            raise DataError(
                f"{len(absent)} panoptic PNGs are not in {self._folder}:"
                f" {', '.join(map(repr, absent[:10]))}{', ...' * (len(absent) > 10)}."
            )

    def bytes_of(self, image_id: int) -> int:
        """Size of the image's PNG."""
        return (self._folder / self._entries[image_id][0]).stat().st_size

    def segments(self, image_id: int, size: tuple[int, int]) -> Segments:
        """The segments of one image.

        Raises:
          DataError: the PNG is damaged, has another size, or shows an id that the
            JSON does not list.
        """
        name, ids, classes, crowd = self._entries[image_id]
        path = self._folder / name
        try:
            data = path.read_bytes()
            check_whole(data)
            pixels = cv2.imdecode(
                np.frombuffer(data, np.uint8),
                cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION,
            )
        except (OSError, cv2.error):
            pixels = None
        except UnreadableImage as error:
            raise DataError(f"The panoptic PNG {path} {error}.") from None
        if pixels is None:
            raise DataError(f"The panoptic PNG {path} cannot be read.")
        if min(size) > 0 and pixels.shape[:2] != tuple(size):
            raise DataError(
                f"{path} has height and width {pixels.shape[:2]}, its image"
                f" {tuple(size)}."
            )
        shown = ids_of_colors(pixels[..., ::-1])  # OpenCV has blue first
        numbers = _renumber(shown, ids)
        if (numbers == _NO_SEGMENT).any():
            unknown = np.unique(shown[numbers == _NO_SEGMENT])[:10]
            raise DataError(
                f"{path} shows the segment ids {unknown.tolist()}, which"
                f" {self._folder}.json does not list for image {image_id}."
            )
        hidden = np.bincount(numbers.ravel(), minlength=len(ids) + 1)[1:] == 0
        if hidden.any():
            raise DataError(
                f"{self._folder}.json lists the segment ids {ids[hidden][:10].tolist()}"
                f" for image {image_id}, which {path} does not show; remove the entries"
                " or put in the PNG that belongs to them."
            )
        return Segments(numbers, classes, crowd)


def read_panoptic(path: pathlib.Path, things: dict[int, str]) -> Panoptic:
    """Read a COCO panoptic JSON; its PNGs lie in the folder of the same name.

    Args:
      path: .../panoptic_train2017.json, say.
      things: id -> name of the categories with boxes, which number the things.

    Raises:
      DataError: as in `coco_json.read_coco`, or the thing categories differ.
    """
    content = load_json(path)
    class_of = {category_id: k for k, category_id in enumerate(sorted(things))}
    stuff: dict[int, str] = {}
    for number, entry in enumerate(object_list(content, "categories", path)):
        category_id = whole_number(
            entry.get("id"), f"the id of category {number}", path
        )
        name = str(entry.get("name", f"category {category_id}"))
        if not is_text(name):
            raise DataError(f"{path}: category {category_id} has no usable name.")
        if entry.get("isthing") not in (0, 1):
            raise DataError(
                f"{path}: isthing of category {category_id} is"
                f" {short(entry.get('isthing'))}, not 0 or 1."
            )
        if not entry["isthing"]:
            stuff[category_id] = name
        elif things.get(category_id) != name:
            raise DataError(
                f"{path}: category {category_id} is the thing {name!r} here but"
                f" {things.get(category_id, 'absent')!r} among the instances; both"
                " files need the same things."
            )
    if not stuff or set(stuff) & set(things):
        raise DataError(
            f"{path} has no stuff categories of its own (isthing 0): it is no panoptic"
            " annotation of these instances."
        )
    class_of |= {i: len(things) + k for k, i in enumerate(sorted(stuff))}
    entries = {}
    for number, entry in enumerate(object_list(content, "annotations", path)):
        image_id = whole_number(
            entry.get("image_id"), f"the image_id of entry {number}", path
        )
        check_file_name(entry.get("file_name"), image_id, path)
        if image_id in entries:
            raise DataError(f"{path}: two annotations are of image {image_id}.")
        entries[image_id] = (
            entry["file_name"],
            *_read_segments(entry, image_id, class_of, path),
        )
    return Panoptic(
        stuff_ids=tuple(sorted(stuff)),
        stuff_names=tuple(stuff[i] for i in sorted(stuff)),
        _folder=path.with_suffix(""),
        _entries=entries,
    )


def _read_segments(
    entry: dict, image_id: int, class_of: dict[int, int], path: pathlib.Path
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """segments_info -> ids (s,) int64, classes (s,) int32, crowd (s,) bool."""
    ids, classes, crowd = [], [], []
    for segment in object_list(entry, "segments_info", path):
        what = f"a segment of image {image_id}"
        segment_id = whole_number(segment.get("id"), f"the id of {what}", path)
        category_id = whole_number(
            segment.get("category_id"), f"the category_id of {what}", path
        )
        if not 0 < segment_id < 2**24 or segment_id in ids:
            raise DataError(
                f"{path}: {what} has the id {segment_id}; ids differ and lie in 1 .."
                " 2**24 - 1, since a PNG pixel shows them."
            )
        if category_id not in class_of:
            raise DataError(
                f"{path}: {what} names category {category_id}, which is not among the"
                " categories."
            )
        ids.append(segment_id)
        classes.append(class_of[category_id])
        crowd.append(bool(segment.get("iscrowd", 0)))
    return np.array(ids, np.int64), np.array(classes, np.int32), np.array(crowd, bool)


def _renumber(shown: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Ids -> 1..s in the order of `ids`, void -> 0, others -> _NO_SEGMENT."""
    table, lock = _table()
    with lock:
        table[ids] = np.arange(1, len(ids) + 1)
        numbers = table[shown]
        table[ids] = _NO_SEGMENT
    return numbers


@functools.cache
def _table() -> tuple[np.ndarray, threading.Lock]:
    """Every id that a pixel can show -> its number in the picture at hand.

    One table for all pictures: sorting a picture's pixels takes ten times as long.
    """
    table = np.full(2**24, _NO_SEGMENT, np.uint16)
    table[0] = 0  # void
    return table, threading.Lock()
