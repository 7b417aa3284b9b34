"""Copy-paste: objects of one training image pasted over another, by their masks.

Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for Instance
Segmentation", CVPR 2021. Both images are resized, cut and mirrored on their own; each
object of the second is taken with probability 1/2 and put where it stood there, without
blending. What it covers of the first image's objects leaves their masks, their boxes
shrink to what is left, and an object of which nothing is left is none any more.
"""

import dataclasses
from typing import Any

import numpy as np

from agvm_jax.data.annotations.errors import UnreadableImage
from agvm_jax.data.annotations.objects import unpack, windows
from agvm_jax.data.annotations.segments import labels_of
from agvm_jax.data.augment.augmentation import Augmentation, Transform, sample
from agvm_jax.data.augment.decode import Size
from agvm_jax.data.augment.placement import crop_masks
from agvm_jax.data.example import Dropped, empty_row, make_image, make_row
from agvm_jax.data.storage.records import Source


@dataclasses.dataclass(frozen=True, eq=False)
class Objects:
    """The objects of an image in a frame.

    Attributes:
      boxes: (n, 4) float32 x1 y1 x2 y2, of positive area.
      bitmaps: n of (h, w) uint8, each over the whole pixels of its box.
      classes: (n,) int32.
      crowd: (n,) bool.
    """

    boxes: np.ndarray
    bitmaps: list[np.ndarray]
    classes: np.ndarray
    crowd: np.ndarray

    @classmethod
    def of(cls, example: dict[str, Any], transform: Transform) -> "Objects":
        """Those of an example that a transform leaves in the frame."""
        boxes, keep = transform.placement.boxes(example["boxes"])
        keep &= transform.keeps(example["boxes"], example["crowd"])
        chosen = np.flatnonzero(keep)
        bitmaps = unpack(example["masks"], example["boxes"])
        placed = transform.placement.bitmaps(
            [bitmaps[i] for i in chosen], example["boxes"][chosen], boxes[chosen]
        )
        classes, crowd = example["classes"][chosen], example["crowd"][chosen]
        return cls(boxes[chosen], placed, classes, crowd)

    def taken(self, which: np.ndarray) -> "Objects":
        """Those with these indices."""
        bitmaps = [self.bitmaps[i] for i in which]
        return Objects(
            self.boxes[which], bitmaps, self.classes[which], self.crowd[which]
        )

    def and_those(self, others: "Objects") -> "Objects":
        """These, and others after them."""
        return Objects(
            np.concatenate([self.boxes, others.boxes]),
            self.bitmaps + others.bitmaps,
            np.concatenate([self.classes, others.classes]),
            np.concatenate([self.crowd, others.crowd]),
        )

    def map_of(self, values: np.ndarray, frame: Size) -> np.ndarray:
        """(*frame,) int32: at each pixel the value of the last object on it, else -1.

        Args:
          values: (n,) 0 or more.
        """
        drawn = np.full(frame, -1, np.int32)
        for value, bitmap, (x1, y1, x2, y2) in self._placed(values):
            part = drawn[y1:y2, x1:x2]
            part[bitmap > 0] = value
        return drawn

    def behind(self, covered: np.ndarray) -> "Objects":
        """What is seen of them where (*frame,) bool `covered` hides the rest.

        An object that loses nothing keeps its box as it is; that of another is cut to
        the pixels that are left.
        """
        boxes, bitmaps = self.boxes.copy(), []
        stays = np.ones(len(boxes), bool)
        for k, bitmap, (x1, y1, x2, y2) in self._placed(np.arange(len(boxes))):
            seen = bitmap * ~covered[y1:y2, x1:x2]
            bitmaps.append(seen)
            if np.array_equal(seen, bitmap):
                continue
            stays[k] = seen.any()
            if stays[k]:
                rows, columns = (np.flatnonzero(seen.any(axis)) for axis in (1, 0))
                left = x1 + columns[0], y1 + rows[0]
                right = x1 + columns[-1] + 1, y1 + rows[-1] + 1
                boxes[k, :2] = np.maximum(boxes[k, :2], left)
                boxes[k, 2:] = np.minimum(boxes[k, 2:], right)
                (a, b), (c, d) = np.floor(boxes[k, :2]), np.ceil(boxes[k, 2:])
                inside = (
                    slice(int(b) - y1, int(d) - y1),
                    slice(int(a) - x1, int(c) - x1),
                )
                bitmaps[-1] = seen[inside]
        cut = Objects(boxes, bitmaps, self.classes, self.crowd)
        return cut.taken(np.flatnonzero(stays))

    def masks(self, side: int) -> np.ndarray:
        """(n, side, side) uint8, each stretched over its box."""
        regions = self.boxes - np.tile(np.floor(self.boxes[:, :2]), 2)
        return crop_masks(self.bitmaps, regions, side)

    def _placed(self, values):
        return zip(
            values.tolist(), self.bitmaps, windows(self.boxes).tolist(), strict=True
        )


def make_pasted_row(
    source: Source,
    augmentation: Augmentation,
    example: dict[str, Any],
    transform: Transform,
    frame: Size,
    config: Any,
    rng: np.random.Generator,
    labels: np.ndarray | None = None,
) -> tuple[dict[str, np.ndarray], Dropped]:
    """`example.make_row`, with objects of another image where `transform` says so.

    Args:
      source: where the other image comes from, any of it.
      augmentation: what happens to that.
      example, transform, frame, config, rng, labels: as in `make_row`; the section has
        mask_size > 0.

    Returns:
      As `make_row`. Of pixels that something was pasted on, the label is the class of
      that, or 0 where all things are one class. `image_size` reaches around it.
    """
    added = None
    if transform.donor is not None:
        added = _from_another(source, augmentation, transform.donor, frame)
    if added is None:
        return make_row(example, transform, frame, config, rng, labels)
    other_image, others = added
    image = make_image(example["image"], transform, frame, example["turn"])
    things = others.map_of(
        np.zeros_like(others.classes) if config.semantic == "stuff" else others.classes,
        frame,
    )
    covered = things >= 0
    image[covered] = other_image[covered]
    objects = Objects.of(example, transform).behind(covered).and_those(others)

    count = len(objects.boxes)
    chosen = np.sort(rng.permutation(count)[: config.max_boxes])
    objects = objects.taken(chosen)
    masks = objects.masks(config.mask_size)
    seen = np.flatnonzero(masks.any(axis=(1, 2)))
    dropped = Dropped(count - len(chosen), len(chosen) - len(seen))
    objects, masks = objects.taken(seen), masks[seen]

    row, n = empty_row(frame, config, image), len(seen)
    reach = np.ceil(others.boxes[:, [3, 2]].max(axis=0))
    row["image_size"][:] = np.maximum(transform.placement.window, reach)
    row["image_id"] = np.array(example["image_id"], np.int64)
    row["boxes"][:n], row["classes"][:n] = objects.boxes, objects.classes
    row["crowd"][:n], row["valid"][:n], row["masks"][:n] = objects.crowd, True, masks
    if config.semantic != "none":
        if labels is None:
            labels = labels_of(example, config.semantic)
        stride = config.semantic_stride
        placed = transform.placement.labels(labels, frame, stride)
        under = things[stride // 2 :: stride, stride // 2 :: stride]
        row["semantic"] = np.where(under >= 0, under, placed)
    return row, dropped


def _from_another(
    source: Source, augmentation: Augmentation, donor: np.random.Generator, frame: Size
) -> tuple[np.ndarray, Objects] | None:
    """Another image in the frame and the objects taken of it; None: there are none.

    An image that cannot be read gives none: it is counted when its own turn comes.
    """
    example = source[int(donor.integers(len(source)))]
    size = (example["height"], example["width"])
    if min(size) < 1:
        return None
    targets = example["boxes"][~example["crowd"]]
    alone = dataclasses.replace(augmentation, copy_paste=0.0, cat_max_ratio=1.0)
    transform = sample(donor, size, frame, alone, targets)
    objects = Objects.of(example, transform)
    some = [bitmap.any() for bitmap in objects.bitmaps]
    taken = (donor.random(len(some)) < 0.5) & ~objects.crowd & np.array(some, bool)
    if not taken.any():
        return None
    try:
        image = make_image(example["image"], transform, frame, example["turn"])
    except UnreadableImage:
        return None
    return image, objects.taken(np.flatnonzero(taken))
