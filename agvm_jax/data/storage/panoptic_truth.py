"""The ground truth of a prepared panoptic set, in COCO's panoptic form."""

import functools
import json
import os
import pathlib
from typing import Any, Protocol

import numpy as np

from agvm_jax.data.annotations.segments import load_segments
from agvm_jax.panoptic_png import write_panoptic_png


class Split(Protocol):
    """What is read of a split: see `records.Source`, which has all of it."""

    card: Any

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


class PanopticTruth:
    """What an evaluator of panoptic quality compares with, out of the records.

    Serves every set that has segments: `coco` and `coco_folder` opened with
    config.data.semantic, `shapes` with stuff, and semantic sets, where each class of a
    picture is one segment. Segment ids are 1, 2, ... in each picture, 0 is void. A
    file is called by its image's id, as in COCO, since file names of images may repeat
    in different folders.

    Attributes:
      source: the split.
    """

    def __init__(self, source: Split):
        self.source = source

    @functools.cached_property
    def content(self) -> dict[str, Any]:
        """The panoptic dictionary: images, annotations, categories.

        Segments of which no pixel is seen are left out.

        Raises:
          UnreadableImage: the split has no segments.
        """
        card = self.source.card
        ids = (*card.category_ids, *card.stuff_ids)
        images, annotations = [], []
        for index in range(len(self.source)):
            example = self.source[index]
            segments = load_segments(example)
            height, width = segments.numbers.shape
            images.append(
                {
                    "id": example["image_id"],
                    "file_name": example["file_name"],
                    "height": height,
                    "width": width,
                }
            )
            boxes = _bounds(segments.numbers, len(segments.classes))
            areas = np.bincount(
                segments.numbers.ravel(), minlength=len(segments.classes) + 1
            )[1:]
            annotations.append(
                {
                    "image_id": example["image_id"],
                    "file_name": _file_name(example["image_id"]),
                    "segments_info": [
                        {
                            "id": number,
                            "category_id": ids[k],
                            "iscrowd": int(crowd),
                            "area": area,
                            "bbox": box,
                        }
                        for number, (k, crowd, area, box) in enumerate(
                            zip(
                                segments.classes.tolist(),
                                segments.crowd.tolist(),
                                areas.tolist(),
                                boxes,
                                strict=True,
                            ),
                            1,
                        )
                        if area
                    ],
                }
            )
        names = (*card.class_names, *card.stuff_names)
        return {
            "images": images,
            "annotations": annotations,
            "categories": [
                {"id": i, "name": name, "isthing": int(k < len(card.class_names))}
                for k, (i, name) in enumerate(zip(ids, names, strict=True))
            ],
        }

    def load(self, file_name: str) -> np.ndarray:
        """The (H, W) int32 segment ids of an annotation, by its file name."""
        example = self.source[self._index_of[file_name]]
        return load_segments(example).numbers.astype(np.int32)

    def label_categories(self, semantic: str) -> tuple[int | None, ...]:
        """The stuff category id of each label of Batch.semantic, None for things.

        Args:
          semantic: a value of config.data.semantic, "stuff" or "all".
        """
        things = 1 if semantic == "stuff" else len(self.source.card.class_names)
        return (None,) * things + self.source.card.stuff_ids

    def write(self, path: str | os.PathLike) -> None:
        """Write the JSON, and the PNGs to the folder of the same name beside it.

        That is COCO's layout: panopticapi and other tools read it, and so does
        `coco_panoptic.read_panoptic`. The JSON comes last, when all PNGs are there.
        """
        path = pathlib.Path(path)
        folder = path.with_suffix("")
        folder.mkdir(parents=True, exist_ok=True)
        for annotation in self.content["annotations"]:
            name = annotation["file_name"]
            write_panoptic_png(folder / name, self.load(name))
        path.write_text(json.dumps(self.content), encoding="utf-8")

    @functools.cached_property
    def _index_of(self) -> dict[str, int]:
        return {
            annotation["file_name"]: index
            for index, annotation in enumerate(self.content["annotations"])
        }


def _file_name(image_id: int) -> str:
    return f"{image_id:012d}.png"


def _bounds(numbers: np.ndarray, count: int) -> list[list[int]]:
    """x y width height around each of the segments 1..count, zeros for absent ones."""
    y, x = np.nonzero(numbers)
    which = numbers[y, x]
    low = np.full((count + 1, 2), np.iinfo(np.int64).max)
    high = np.full((count + 1, 2), -1)
    for axis, position in enumerate((x, y)):
        np.minimum.at(low[:, axis], which, position)
        np.maximum.at(high[:, axis], which, position)
    low = np.where(high < 0, 0, low)
    return np.concatenate([low, high + 1 - low], axis=1)[1:].tolist()
