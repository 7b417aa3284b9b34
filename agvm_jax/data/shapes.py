"""The generated data set: coloured shapes on textured ground, with exact boxes.

Every picture is a function of (seed, split, index, size, max_objects) alone, so a
longer set begins with the shorter one. Three classes that differ in nothing but their
outline; size, colour, texture, rotation and occlusion are drawn at random. What a shape
hides of another is cut from the other's mask, and boxes are the masks' bounds, as in
COCO.
"""

import dataclasses

import cv2
import numpy as np

from agvm_jax.data.annotations import Annotations
from agvm_jax.data.errors import DataError
from agvm_jax.data.masks import mask_to_run_lengths

CLASS_NAMES = ("circle", "square", "triangle")
VERSION = 1  # raise it when a picture changes: prepared sets are keyed by it

_RADIUS = (0.07, 0.23)  # shares of the picture's shorter side, drawn log-uniformly
_EMPTY = 0.04  # share of pictures without an object
_VISIBLE = 0.5  # share of a shape that must stay visible
_CONTRAST = 70  # least difference of a shape's colour to the ground, in one channel
_TRIES = 8  # attempts to place one shape before it is left out
_SPLITS = {"train": 0, "val": 1}


@dataclasses.dataclass(frozen=True, eq=False)
class Drawing:
    """One picture.

    Attributes:
      image: (H, W, 3) uint8 RGB.
      masks: (n, H, W) bool, the visible part of each shape, never empty.
      classes: (n,) int32.
    """

    image: np.ndarray
    masks: np.ndarray
    classes: np.ndarray

    def boxes(self) -> np.ndarray:
        """(n, 4) float64 x y width height, the bounds of the masks."""
        boxes = []
        for mask in self.masks:
            x = np.flatnonzero(mask.any(axis=0))
            y = np.flatnonzero(mask.any(axis=1))
            boxes.append((x[0], y[0], x[-1] + 1 - x[0], y[-1] + 1 - y[0]))
        return np.array(boxes, np.float64).reshape(-1, 4)


def draw_shapes(
    seed: int, split: str, index: int, image_size: tuple[int, int], max_objects: int
) -> Drawing:
    """Draw picture `index` of a split ("train" or "val")."""
    rng = np.random.default_rng([seed, _SPLITS[split], index])
    height, width = image_size
    image = _ground(rng, height, width)
    count = 0 if rng.random() < _EMPTY else int(rng.integers(1, max_objects + 1))
    # owner: which shape each pixel shows, -1 for the ground.
    owner = np.full((height, width), -1, np.int32)
    classes: list[int] = []
    drawn: list[int] = []  # pixels of each shape before anything hid it
    for _ in range(count):
        kind = int(rng.integers(len(CLASS_NAMES)))
        mask = _place(rng, kind, owner, drawn)
        if mask is None:
            continue
        _paint(rng, image, mask)
        owner[mask] = len(classes)
        drawn.append(int(mask.sum()))
        classes.append(kind)
    image = cv2.GaussianBlur(image, (3, 3), 0.6)
    image += rng.standard_normal(image.shape, np.float32) * rng.uniform(4, 14)
    return Drawing(
        image=np.clip(image, 0, 255).astype(np.uint8),
        masks=owner[None] == np.arange(len(classes), dtype=np.int32)[:, None, None],
        classes=np.array(classes, np.int32),
    )


def encode_drawing(drawing: Drawing) -> bytes:
    """The picture as JPEG, of a quality that keeps its texture."""
    bgr = np.ascontiguousarray(drawing.image[..., ::-1])
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def shapes_annotations(
    seed: int,
    split: str,
    count: int,
    image_size: tuple[int, int],
    max_objects: int,
) -> Annotations:
    """The annotations of the first `count` pictures of a split."""
    rows, classes, boxes, areas, segmentations = [], [], [], [], []
    for index in range(count):
        drawing = draw_shapes(seed, split, index, image_size, max_objects)
        rows += [index] * len(drawing.classes)
        classes.append(drawing.classes)
        boxes.append(drawing.boxes())
        areas.append(drawing.masks.sum(axis=(1, 2)))
        segmentations += [mask_to_run_lengths(mask) for mask in drawing.masks]
    return Annotations(
        image_ids=np.arange(1, count + 1),
        file_names=[f"shapes/{split}/{i:06d}.jpg" for i in range(1, count + 1)],
        sizes=np.tile(np.array(image_size, np.int64), (count, 1)),
        category_ids=tuple(range(1, len(CLASS_NAMES) + 1)),
        class_names=CLASS_NAMES,
        object_ids=np.arange(1, len(rows) + 1),
        object_image=np.array(rows, np.int64),
        object_class=np.concatenate(classes),
        boxes=np.concatenate(boxes),
        areas=np.concatenate(areas).astype(np.float64),
        crowd=np.zeros(len(rows), bool),
        segmentations=segmentations,
    )


def check_shapes(
    seed: int, count: int, image_size: tuple[int, int], max_objects: int
) -> None:
    """Raise DataError for parameters that cannot be drawn."""
    if count < 1:
        raise DataError(f"data.shapes needs 1 or more images a split, not {count}.")
    if min(image_size) < 32:
        raise DataError(
            f"data.shapes.image_size is {tuple(image_size)}; shapes need 32 pixels."
        )
    if max_objects < 1 or seed < 0:
        raise DataError("data.shapes.max_objects must be 1 or more, seed 0 or more.")


def _ground(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A cloudy, streaked background, (H, W, 3) float32 in 0..255."""
    cells = int(rng.integers(3, 9))
    clouds = rng.uniform(-45, 45, (cells, cells, 3)).astype(np.float32)
    image = cv2.resize(clouds, (width, height), interpolation=cv2.INTER_CUBIC)
    image += rng.uniform(50, 205, 3).astype(np.float32)
    for _ in range(int(rng.integers(0, 7))):  # streaks: edges that are no shape
        ends = rng.uniform(0, 1, (2, 2)) * (width, height)
        start, end = ends.astype(int).tolist()
        colour = rng.uniform(0, 255, 3).tolist()
        cv2.line(image, start, end, colour, int(rng.integers(1, 3)))
    return image


def _place(
    rng: np.random.Generator, kind: int, owner: np.ndarray, drawn: list[int]
) -> np.ndarray | None:
    """A mask (H, W) bool for a new shape, or None if no try leaves all visible."""
    height, width = owner.shape
    for _ in range(_TRIES):
        low, high = np.log(_RADIUS)
        radius = np.exp(rng.uniform(low, high)) * min(height, width)
        centre = rng.uniform(0.5 * radius, (width, height) - 0.5 * radius)
        mask, whole = _outline(kind, centre, radius, rng.uniform(0, 2 * np.pi), owner)
        if mask.sum() < _VISIBLE * whole:
            continue  # too much of it would lie outside the picture
        hidden = np.bincount(owner[mask] + 1, minlength=len(drawn) + 1)[1:]
        left = np.bincount(owner.ravel() + 1, minlength=len(drawn) + 1)[1:] - hidden
        if (left >= _VISIBLE * np.array(drawn)).all():
            return mask
    return None


def _outline(
    kind: int, centre: np.ndarray, radius: float, angle: float, owner: np.ndarray
) -> tuple[np.ndarray, float]:
    """(mask of the shape within the picture, area of the whole shape).

    The three classes get equal areas for one radius, so that size tells nothing.
    """
    corners = {"circle": 64, "square": 4, "triangle": 3}[CLASS_NAMES[kind]]
    # A regular polygon of circumradius r has the area n/2 r^2 sin(2 pi / n).
    unit_area = 0.5 * corners * np.sin(2 * np.pi / corners)
    reach = radius * np.sqrt(2.4 / unit_area)
    turns = angle + np.arange(corners) * (2 * np.pi / corners)
    points = centre + reach * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    mask = np.zeros(owner.shape, np.uint8)
    # 4 fractional bits: cv2 rounds whole pixels otherwise.
    cv2.fillConvexPoly(mask, np.round(points * 16).astype(np.int32), 1, shift=4)
    return mask.astype(bool), unit_area * reach**2


def _paint(rng: np.random.Generator, image: np.ndarray, mask: np.ndarray) -> None:
    """Colour the mask, flat or striped, in a colour unlike the ground's."""
    ground = image[mask].mean(axis=0)
    colour = rng.uniform(0, 255, 3)
    while np.abs(colour - ground).max() < _CONTRAST:
        colour = rng.uniform(0, 255, 3)
    y, x = np.nonzero(mask)
    angle, period = rng.uniform(0, np.pi), rng.uniform(4, 12)
    strength = rng.uniform(10, 45) if rng.random() < 0.5 else 0.0
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / period))
    image[y, x] = colour + strength * wave[:, None]
