"""The strokes that drawings are made of: colours, letters, boxes, label places."""

import colorsys
import functools
import math
from collections.abc import Sequence

import cv2
import numpy as np
from matplotlib import font_manager
from PIL import ImageDraw, ImageFont

# Told apart by colour-blind readers too, and bright on photographs; then the wheel.
PALETTE = (
    (255, 159, 28), (46, 196, 255), (255, 89, 94), (138, 221, 60), (214, 120, 255),
    (255, 221, 51), (0, 214, 170), (255, 138, 200), (122, 146, 255), (190, 150, 100),
)  # fmt: skip


def class_color(index: int) -> tuple[int, int, int]:
    """Return the RGB colour of a class, the same in every image."""
    if index < len(PALETTE):
        return PALETTE[index]
    turn = (index - len(PALETTE)) * 0.618034 % 1.0  # golden ratio: neighbours differ
    value = (1.0, 0.75)[index % 2]
    red, green, blue = colorsys.hsv_to_rgb(turn, 0.75, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def enlarge(image: np.ndarray, min_side: int) -> tuple[np.ndarray, float]:
    """Return the image with its longer side at least `min_side`, and the factor."""
    scale = max(1.0, min_side / max(image.shape[:2]))
    if scale == 1.0:
        return image, 1.0
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), scale


@functools.cache
def letters(size: int) -> ImageFont.FreeTypeFont:
    """matplotlib brings this font with it, so letters look alike on every machine."""
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)


def inside(box: np.ndarray, width: int, height: int) -> tuple[int, int, int, int]:
    """Return a box in whole pixels that are in the image."""
    x1, x2 = np.clip([box[0], box[2]], 0, width - 1)
    y1, y2 = np.clip([box[1], box[3]], 0, height - 1)
    return round(x1), round(y1), round(max(x1, x2)), round(max(y1, y2))


def dashed_rectangle(
    pen: ImageDraw.ImageDraw, box: Sequence[int], dash: int = 6, period: int = 10
) -> None:
    """White dashes over a dark line: visible on bright and dark ground.

    A dash is one pixel longer than `dash`, and a new one starts every `period` pixels.
    """
    x1, y1, x2, y2 = box
    pen.rectangle((x1, y1, x2, y2), outline=(40, 40, 40), width=1)
    for start in range(x1, x2 + 1, period):
        end = min(start + dash, x2)
        pen.line((start, y1, end, y1), fill="white")
        pen.line((start, y2, end, y2), fill="white")
    for start in range(y1, y2 + 1, period):
        end = min(start + dash, y2)
        pen.line((x1, start, x1, end), fill="white")
        pen.line((x2, start, x2, end), fill="white")


def dotted_rectangle(pen: ImageDraw.ImageDraw, box: Sequence[int]) -> None:
    """White dots over a dark line: a crowd region, neither to be found nor wrong."""
    dashed_rectangle(pen, box, dash=1, period=8)


def place_label(
    pen: ImageDraw.ImageDraw,
    text: str,
    font: ImageFont.FreeTypeFont,
    box: Sequence[int],
    limits: tuple[int, int],
    taken: Sequence[Sequence[int]],
) -> tuple[int, int, int, int]:
    """Return x1 y1 x2 y2 for a label of a box.

    Above the box, else inside it, else below: where it covers the least of the labels
    in `taken`. `limits` are the image's width and height.
    """
    left, top, right, bottom = pen.textbbox((0, 0), text, font, "lt")
    wide, tall = int(right - left) + 8, int(bottom - top) + 8
    x1, y1, x2, y2 = box
    best, least = None, math.inf
    corners = (
        (x1, y1 - tall),
        (x1, y1),
        (x2 - wide, y1 - tall),
        (x1, y2),
        (x2 - wide, y2 - tall),
    )
    for x, y in corners:
        if y < 0 or y + tall > limits[1]:
            continue
        x = int(min(max(x, 0), max(limits[0] - wide, 0)))
        place = (x, int(y), x + wide, int(y) + tall)
        covered = sum(_overlap(place, other) for other in taken)
        if covered < least:
            best, least = place, covered
    if best is None:  # an image lower than a line of text
        best = (x1, 0, x1 + wide, tall)
    return best


def _overlap(a: Sequence[int], b: Sequence[int]) -> int:
    wide = min(a[2], b[2]) - max(a[0], b[0])
    tall = min(a[3], b[3]) - max(a[1], b[1])
    return max(wide, 0) * max(tall, 0)


def ink(color: Sequence[int]) -> tuple[int, int, int]:
    """Black or white, whichever stands out (luma of ITU-R BT.601)."""
    luma = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    return (0, 0, 0) if luma > 110 else (255, 255, 255)


def shorten(
    pen: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, width: int
) -> str:
    """Cut a text to `width` pixels, with an ellipsis where something is lost."""
    if pen.textlength(text, font) <= width:
        return text
    while text and pen.textlength(text + "…", font) > width:
        text = text[:-1]
    return text + "…"
