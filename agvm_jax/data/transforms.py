"""From an encoded image and its boxes to one padded row of a batch.

All geometry goes through `Placement`: one description of what happens to the picture,
applied to pixels and to boxes alike.
"""

import dataclasses
from typing import Any

import cv2
import numpy as np

from agvm_jax.data.errors import UnreadableImage

Size = tuple[int, int]  # (height, width)


# --- Decoding ---------------------------------------------------------------------


def decode_image(data: bytes, size: Size, at_least: Size = (0, 0)) -> np.ndarray:
    """Decode an image to RGB.

    Grey-scale, 16-bit, palette, CMYK and alpha all come out as 8-bit RGB. The
    orientation in the EXIF data is ignored, as COCO's tools do, unless the stored size
    contradicts the annotations and the rotated one agrees: boxes belong to the
    picture that their annotator saw.

    Args:
      data: the encoded bytes.
      size: what the annotations say; (0, 0) accepts any.
      at_least: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long as it stays
        this large: four to sixty-four times less work, and a better reduction than
        sampling. (0, 0): whole size.

    Returns:
      (h, w, 3) uint8, where (h, w) is `size` or, reduced, ceil(size / 2, 4 or 8).

    Raises:
      UnreadableImage: with the reason.
    """
    _check_whole(data)
    divisor = _divisor(data, size, at_least)
    image = _imdecode(data, _REDUCED[divisor] | cv2.IMREAD_IGNORE_ORIENTATION)
    expected = tuple(-(-side // divisor) for side in size)
    if min(size) > 0 and image.shape[:2] != expected:
        turned = _imdecode(data, _REDUCED[divisor])
        if turned.shape[:2] != expected:
            height, width = image.shape[:2]
            raise UnreadableImage(
                f"is {width}x{height} where its annotations say {size[1]}x{size[0]}"
                if divisor == 1
                else f"is not {size[1]}x{size[0]} as its annotations say"
            )
        image = turned
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def stored_size(data: bytes) -> Size:
    """Height and width of an image as stored; (0, 0) if it cannot be decoded."""
    try:
        return decode_image(data, (0, 0)).shape[:2]
    except UnreadableImage:
        return (0, 0)


_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_JPEG = b"\xff\xd8"
_PNG = b"\x89PNG"


def _divisor(data: bytes, size: Size, at_least: Size) -> int:
    """The largest reduction that leaves `at_least`; JPEG alone reduces for free."""
    if min(size) > 0 and min(at_least) > 0 and data.startswith(_JPEG):
        for divisor in (8, 4, 2):
            if all(-(-a // divisor) >= b for a, b in zip(size, at_least, strict=True)):
                return divisor
    return 1


def _check_whole(data: bytes) -> None:
    """Raise for truncated JPEG and PNG, whose lost part OpenCV would paint grey."""
    if data.startswith(_JPEG):
        # Inside the scan an FF byte is never followed by D9 or DA, so the last scan of
        # a whole file is followed by an end marker, whatever a camera appends after it.
        whole = data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
    elif data.startswith(_PNG):
        whole = b"IEND" in data[-64:]
    else:
        whole = len(data) > 0
    if not whole:
        raise UnreadableImage("is truncated" if data else "is an empty file")


def _imdecode(data: bytes, flags: int) -> np.ndarray:
    """cv2.imdecode, with one kind of failure."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise UnreadableImage(f"cannot be decoded ({error.err})") from None
    if image is None:
        raise UnreadableImage("cannot be decoded: it is damaged or no image at all")
    return image


# --- Geometry ---------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the picture goes: resize, cut a window out, mirror it, pad to the frame.

    Attributes:
      size: of the original picture.
      resized: of the whole picture after resizing.
      corner: (y, x) of the window within the resized picture.
      window: size of the window; it stands in the frame's top left corner.
      flip: whether the window is mirrored left to right.
    """

    size: Size
    resized: Size
    corner: tuple[int, int]
    window: Size
    flip: bool

    def image(self, image: np.ndarray, frame: Size) -> np.ndarray:
        """(h, w, 3) -> (*frame, 3), zero outside the window.

        The image may have been decoded smaller than `size`: only its content counts.
        """
        if image.shape[:2] != self.resized:
            # Averaging when shrinking: thin things must not fall between samples.
            shrinks = image.shape[0] > self.resized[0]
            image = cv2.resize(
                image,
                self.resized[::-1],
                interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
            )
        (y, x), (height, width) = self.corner, self.window
        image = image[y : y + height, x : x + width]
        if self.flip:
            image = image[:, ::-1]
        if (height, width) == frame:
            return np.ascontiguousarray(image)
        framed = np.zeros((*frame, 3), np.uint8)
        framed[:height, :width] = image
        return framed

    def boxes(self, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Move boxes along with the picture.

        Args:
          boxes: (n, 4) x1 y1 x2 y2 in the original picture.

        Returns:
          (n, 4) float32 in the frame, clipped to the window, and (n,) bool: whether
          anything of the box is left.
        """
        (y, x), (height, width) = self.corner, self.window
        # Each axis has its own scale, since `resized` was rounded: dividing by it and
        # multiplying by `size` must give the original back.
        sy, sx = (new / old for new, old in zip(self.resized, self.size, strict=True))
        boxes = boxes.astype(np.float64) * (sx, sy, sx, sy) - (x, y, x, y)
        if self.flip:
            boxes = np.stack(
                [width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1
            )
        boxes = np.clip(boxes, 0, (width, height, width, height)).astype(np.float32)
        return boxes, (boxes[:, 2:] > boxes[:, :2]).all(axis=1)


def fitted(size: Size, frame: Size, scale: float = 1.0) -> Size:
    """`size` resized with its ratio kept, to `scale` times the largest that fits."""
    factor = min(f / s for f, s in zip(frame, size, strict=True)) * scale
    # Rounding may not carry the longer side over the frame when scale is 1.
    height, width = (max(1, round(side * factor)) for side in size)
    return (height, width)


def still_placement(size: Size, frame: Size) -> Placement:
    """As large as fits, nothing random: what evaluation sees."""
    resized = fitted(size, frame)
    return Placement(size, resized, (0, 0), resized, flip=False)


def random_placement(
    rng: np.random.Generator,
    size: Size,
    frame: Size,
    flip: float,
    scale_range: tuple[float, float],
) -> Placement:
    """Draw a scale, a window where the picture is larger than the frame, and a flip.

    Always draws the same four numbers, so that one key of the config never changes
    what another draws.
    """
    u_scale, u_y, u_x, u_flip = rng.random(4)
    low, high = scale_range
    resized = fitted(size, frame, low + (high - low) * u_scale)
    window = tuple(min(a, b) for a, b in zip(resized, frame, strict=True))
    corner = tuple(
        int(u * (whole - part + 1))
        for u, whole, part in zip((u_y, u_x), resized, window, strict=True)
    )
    return Placement(size, resized, corner, window, flip=bool(u_flip < flip))


# --- Rows -------------------------------------------------------------------------


def make_row(
    example: dict[str, Any],
    placement: Placement,
    frame: Size,
    max_boxes: int,
    rng: np.random.Generator | None = None,
) -> tuple[dict[str, np.ndarray], int]:
    """Decode, place and pad one example.

    Args:
      example: of `records.Source`.
      placement: what to do with it.
      frame: (H, W) of the result.
      max_boxes: N. Of more objects than that, `rng` picks N at random, so that no
        kind is always the one left out; without `rng` the first N stay.

    Returns:
      one row of Batch without the batch axis (image (H, W, 3), boxes (N, 4), ...), and
      how many objects were dropped over the cap.

    Raises:
      UnreadableImage: with the reason.
    """
    image = decode_image(example["image"], placement.size, placement.resized)
    boxes, keep = placement.boxes(example["boxes"])
    chosen = np.flatnonzero(keep)
    dropped = max(0, len(chosen) - max_boxes)
    if dropped and rng is not None:
        chosen = np.sort(rng.permutation(chosen)[:max_boxes])
    chosen = chosen[:max_boxes]
    row = empty_row(frame, max_boxes, placement.image(image, frame))
    row["image_size"][:] = placement.window
    row["image_id"] = np.array(example["image_id"], np.int64)
    row["boxes"][: len(chosen)] = boxes[chosen]
    row["classes"][: len(chosen)] = example["classes"][chosen]
    row["crowd"][: len(chosen)] = example["crowd"][chosen]
    row["valid"][: len(chosen)] = True
    return row, dropped


def empty_row(
    frame: Size, max_boxes: int, image: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """A row of padding: image_id -1, black, no box valid."""
    return {
        "image": np.zeros((*frame, 3), np.uint8) if image is None else image,
        "image_size": np.array(frame, np.int32),
        "image_id": np.array(-1, np.int64),
        "boxes": np.zeros((max_boxes, 4), np.float32),
        "classes": np.zeros(max_boxes, np.int32),
        "valid": np.zeros(max_boxes, bool),
        "crowd": np.zeros(max_boxes, bool),
    }
