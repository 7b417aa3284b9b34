"""The generated data set: coloured shapes on textured ground, with exact boxes.

Every picture is a function of its style, split and index alone, so a longer set begins
with the shorter one. Three classes that differ in nothing but their
outline; size, colour, texture, rotation and occlusion are drawn at random. What a shape
hides of another is cut from the other's mask, and boxes are the masks' bounds, as in
COCO. With `stuff`, the ground is divided into regions of different texture.
"""

import dataclasses

import cv2
import hotcoco
import numpy as np

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.annotations.objects import Annotations
from agvm_jax.data.annotations.segments import Segments, segments_from_labels

CLASS_NAMES = ("circle", "square", "triangle")
STUFF_NAMES = ("clouds", "waves", "tiles")
_STUFF = {"stuff_ids": (4, 5, 6), "stuff_names": STUFF_NAMES}
VERSION = 1  # raise it when a picture changes: prepared sets are keyed by it

_RADIUS = (0.07, 0.23)  # shares of the picture's shorter side, drawn log-uniformly
_EMPTY = 0.04  # share of pictures without an object
_VISIBLE = 0.5  # share of a shape that must stay visible
_CONTRAST = 70  # least difference of a shape's colour to the ground, in one channel
_TRIES = 8  # attempts to place one shape before it is left out
_SPLITS = {"train": 0, "val": 1}


@dataclasses.dataclass(frozen=True)
class Style:
    """What pictures are drawn.

    Attributes:
      seed: 0 or more.
      image_size: (H, W), 32 pixels or more.
      max_objects: shapes in the fullest picture.
      stuff: whether the ground has regions, each of a stuff class.

    Raises:
      DataError: one of them is out of its range.
    """

    seed: int
    image_size: tuple[int, int]
    max_objects: int
    stuff: bool = False

    def __post_init__(self):
        for good, key, rule in (
            (self.seed >= 0, "seed", "0 or more"),
            (min(self.image_size) >= 32, "image_size", "32 pixels or more"),
            (self.max_objects >= 1, "max_objects", "1 or more"),
        ):
            if not good:
                raise DataError(
                    f"config.data.shapes.{key} is {getattr(self, key)}; it must be"
                    f" {rule}."
                )


@dataclasses.dataclass(frozen=True, eq=False)
class Drawing:
    """One picture.

    Attributes:
      image: (H, W, 3) uint8 RGB.
      ground: (H, W) int64, the stuff class under everything, 0..S-1; zeros without
        stuff.
      masks: (n, H, W) bool, the visible part of each shape, never empty.
      classes: (n,) int32.
    """

    image: np.ndarray
    ground: np.ndarray
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

    def segments(self) -> Segments:
        """Each visible stuff class is a segment, and each shape is one."""
        stuff = segments_from_labels(self.ground + len(CLASS_NAMES))
        numbers = stuff.numbers
        for k, mask in enumerate(self.masks):
            numbers[mask] = len(stuff.classes) + 1 + k
        return Segments(
            numbers=numbers,
            classes=np.concatenate([stuff.classes, self.classes]),
            crowd=np.zeros(len(stuff.classes) + len(self.classes), bool),
        )


def draw_shapes(style: Style, split: str, index: int) -> Drawing:
    """Draw picture `index` of a split ("train" or "val")."""
    rng = np.random.default_rng([style.seed, _SPLITS[split], index])
    height, width = style.image_size
    image = _clouds(rng, height, width)
    ground = np.zeros((height, width), np.int64)
    if style.stuff:
        _divide(rng, image, ground)
    _streaks(rng, image)
    count = 0
    if rng.random() >= _EMPTY:
        count = int(rng.integers(1, style.max_objects + 1))
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
        ground=ground,
        masks=owner[None] == np.arange(len(classes), dtype=np.int32)[:, None, None],
        classes=np.array(classes, np.int32),
    )


def encode_drawing(drawing: Drawing) -> bytes:
    """The picture as JPEG, of a quality that keeps its texture."""
    bgr = np.ascontiguousarray(drawing.image[..., ::-1])
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def shapes_annotations(style: Style, split: str, count: int) -> Annotations:
    """The annotations of the first `count` pictures of a split."""
    rows, classes, boxes, areas, segmentations = [], [], [], [], []
    for index in range(count):
        drawing = draw_shapes(style, split, index)
        rows += [index] * len(drawing.classes)
        classes.append(drawing.classes)
        boxes.append(drawing.boxes())
        areas.append(drawing.masks.sum(axis=(1, 2)))
        segmentations += [hotcoco.mask.encode(mask) for mask in drawing.masks]
    return Annotations(
        image_ids=np.arange(1, count + 1),
        file_names=[f"shapes/{split}/{i:06d}.jpg" for i in range(1, count + 1)],
        sizes=np.tile(np.array(style.image_size, np.int64), (count, 1)),
        category_ids=tuple(range(1, len(CLASS_NAMES) + 1)),
        class_names=CLASS_NAMES,
        object_ids=np.arange(1, len(rows) + 1),
        object_image=np.array(rows, np.int64),
        object_class=np.concatenate(classes),
        boxes=np.concatenate(boxes),
        areas=np.concatenate(areas).astype(np.float64),
        crowd=np.zeros(len(rows), bool),
        segmentations=segmentations,
        **_STUFF if style.stuff else {},
    )


def _clouds(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A cloudy background, (H, W, 3) float32 in 0..255."""
    cells = int(rng.integers(3, 9))
    clouds = rng.uniform(-45, 45, (cells, cells, 3)).astype(np.float32)
    image = cv2.resize(clouds, (width, height), interpolation=cv2.INTER_CUBIC)
    image += rng.uniform(50, 205, 3).astype(np.float32)
    return image


def _streaks(rng: np.random.Generator, image: np.ndarray) -> None:
    """Draw lines: edges that are no shape."""
    height, width = image.shape[:2]
    for _ in range(int(rng.integers(0, 7))):
        ends = rng.uniform(0, 1, (2, 2)) * (width, height)
        start, end = ends.astype(int).tolist()
        colour = rng.uniform(0, 255, 3).tolist()
        cv2.line(image, start, end, colour, int(rng.integers(1, 3)))


def _divide(rng: np.random.Generator, image: np.ndarray, ground: np.ndarray) -> None:
    """Give one or two sides of the picture another texture, and note it in `ground`.

    The border is a bent line, and every texture comes in every colour.
    """
    height, width = ground.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    for _ in range(int(rng.integers(1, 3))):
        kind = int(rng.integers(1, len(STUFF_NAMES)))
        angle, bend = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.15) * min(y.shape)
        along = (x - width / 2) * np.cos(angle) + (y - height / 2) * np.sin(angle)
        across = (y - height / 2) * np.cos(angle) - (x - width / 2) * np.sin(angle)
        border = bend * np.sin(across / rng.uniform(8, 25))
        side = along > border + rng.uniform(0.0, 0.25) * min(y.shape)
        turn, period = rng.uniform(0, np.pi), rng.uniform(7, 14)
        u = (x * np.cos(turn) + y * np.sin(turn)) * (2 * np.pi / period)
        v = (y * np.cos(turn) - x * np.sin(turn)) * (2 * np.pi / period)
        wave = (
            np.sin(u)
            if STUFF_NAMES[kind] == "waves"
            else np.sign(np.sin(u) * np.sin(v))
        )
        tint = rng.uniform(50, 205, 3) + rng.uniform(12, 35) * wave[..., None]
        image[side] = tint[side]
        ground[side] = kind


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
