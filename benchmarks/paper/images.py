"""The images of all runs, drawn once and read through a memory map.

A run takes images in an order that depends on its seed alone: two methods with one
seed see the same batches, and no run sees an image twice.
"""

import dataclasses
import fcntl
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from agvm_jax.data.formats.shapes_drawing import Style, draw_shapes
from agvm_jax.structures import Batch
from benchmarks.paper.scales import Scale

PARTS = ("image", "boxes", "classes", "valid")


@dataclasses.dataclass(frozen=True)
class Pool:
    """Images with boxes; the arrays are memory maps.

    Attributes:
      image: (N, S, S, 3) uint8.
      boxes: (N, M, 4) float32, x1 y1 x2 y2 in pixels.
      classes: (N, M) int32.
      valid: (N, M) bool.
      class_names: one a class; if there is one only, every object is of it.
    """

    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    valid: np.ndarray
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.image)

    def batch(self, rows: np.ndarray) -> Batch:
        """Return the images in these rows; an image's id is its row + 1."""
        height, width = self.image.shape[1:3]
        valid = self.valid[rows]
        return Batch(
            image=self.image[rows],
            image_size=np.tile(np.array([height, width], np.int32), (len(rows), 1)),
            image_id=(rows + 1).astype(np.int32),
            boxes=self.boxes[rows],
            classes=self._class(self.classes[rows]),
            valid=valid,
            crowd=np.zeros_like(valid),
        )

    def _class(self, drawn):
        return drawn * (len(self.class_names) > 1)

    def ground_truth(self) -> dict:
        """Return all images as a COCO dictionary; category ids are class + 1."""
        height, width = self.image.shape[1:3]
        annotations = []
        for row, slot in np.argwhere(self.valid):
            x1, y1, x2, y2 = self.boxes[row, slot].tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": int(row) + 1,
                    "category_id": int(self._class(self.classes[row, slot])) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
        return {
            "images": [
                {"id": row + 1, "height": height, "width": width}
                for row in range(len(self))
            ],
            "annotations": annotations,
            "categories": [
                {"id": k + 1, "name": name} for k, name in enumerate(self.class_names)
            ],
        }


def order(seed: int, images: int, wanted: int) -> np.ndarray:
    """Return the rows that a run of this seed takes, (wanted,), all different.

    Raises:
      ValueError: there are not as many images.
    """
    if wanted > images:
        raise ValueError(
            f"a run of {wanted} images wants fresh ones, and {images} are drawn: "
            "raise the scale's train_images"
        )
    return np.random.default_rng([seed, 14]).permutation(images)[:wanted]


def open_pool(scale: Scale, split: str, folder: Path) -> Pool:
    """Return the images of "train" or "val"; they are drawn if nobody has before."""
    count = {"train": scale.train_images, "val": scale.val_images}[split]
    name = f"{split}_{scale.image_size}px_{scale.max_objects}objects_{count}"
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    with open(place / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one draws, the others wait
        if not (place / "done").exists():
            _draw(scale, split, count, place)
            (place / "done").touch()
    arrays = (np.load(place / f"{part}.npy", mmap_mode="r") for part in PARTS)
    return Pool(*arrays, class_names=scale.class_names)


def _draw(scale: Scale, split: str, count: int, place: Path) -> None:
    side, most = scale.image_size, scale.max_objects
    shapes = ((side, side, 3), (most, 4), (most,), (most,))
    dtypes = (np.uint8, np.float32, np.int32, np.bool_)
    arrays = [
        np.lib.format.open_memmap(place / f"{part}.npy", "w+", dtype, (count, *shape))
        for part, shape, dtype in zip(PARTS, shapes, dtypes, strict=True)
    ]
    style = Style(seed=0, image_size=(side, side), max_objects=most)
    chunks = [
        (style, split, first, min(first + 4096, count))
        for first in range(0, count, 4096)
    ]
    print(f"drawing {count} images of {side} px for {split!r} in {place}", flush=True)
    if len(chunks) == 1:
        drawn = map(_draw_chunk, chunks)
        pool = None
    else:
        pool = ProcessPoolExecutor(os.cpu_count())
        drawn = pool.map(_draw_chunk, chunks)
    for (_, _, first, last), parts in zip(chunks, drawn, strict=True):
        for array, part in zip(arrays, parts, strict=True):
            array[first:last] = part
    if pool:
        pool.shutdown()
    for array in arrays:
        array.flush()


def _draw_chunk(chunk: tuple[Style, str, int, int]) -> list[np.ndarray]:
    style, split, first, last = chunk
    most = style.max_objects
    rows = []
    for index in range(first, last):
        drawing = draw_shapes(style, split, index)
        boxes = np.zeros((most, 4), np.float32)
        classes = np.zeros(most, np.int32)
        valid = np.zeros(most, bool)
        found = len(drawing.classes)
        boxes[:found] = drawing.boxes()
        boxes[:, 2:] += boxes[:, :2]
        classes[:found] = drawing.classes
        valid[:found] = True
        rows.append((drawing.image, boxes, classes, valid))
    return [np.stack(part) for part in zip(*rows, strict=True)]
