"""Pictures with drawn boxes: small images are enlarged so that labels can be read."""

import colorsys
import functools
import math
import os
from collections.abc import Sequence

import cv2
import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from agvm_jax.structures import Batch, Predictions

# Told apart by colour-blind readers too, and bright on photographs; then the wheel.
PALETTE = (
    (255, 159, 28), (46, 196, 255), (255, 89, 94), (138, 221, 60), (214, 120, 255),
    (255, 221, 51), (0, 214, 170), (255, 138, 200), (122, 146, 255), (190, 150, 100),
)  # fmt: skip


def class_color(index: int) -> tuple[int, int, int]:
    """Return the RGB colour of a class, the same in every picture."""
    if index < len(PALETTE):
        return PALETTE[index]
    turn = (index - len(PALETTE)) * 0.618034 % 1.0  # golden ratio: neighbours differ
    value = (1.0, 0.75)[index % 2]
    red, green, blue = colorsys.hsv_to_rgb(turn, 0.75, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_detections(
    image: np.ndarray,
    boxes: np.ndarray,
    classes: np.ndarray,
    scores: np.ndarray,
    class_names: Sequence[str],
    ground_truth: np.ndarray | None = None,
    *,
    score_threshold: float = 0.0,
    min_side: int = 480,
) -> np.ndarray:
    """Return a copy of `image` with boxes, class names and scores.

    Args:
      image: (H, W, 3) uint8 RGB.
      boxes: (D, 4) x1 y1 x2 y2 in pixels of `image`.
      classes: (D,) 0..K-1.
      scores: (D,) in [0, 1].
      class_names: K names.
      ground_truth: (G, 4) boxes, drawn as thin dashed white lines.
      score_threshold: detections below it are not drawn.
      min_side: an image whose longer side is shorter is enlarged to it first.

    Raises:
      ValueError: the image is not (H, W, 3) uint8, or a class has no name.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"expected an (H, W, 3) uint8 image, got {image.shape} {image.dtype}"
        )
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    classes, scores = np.asarray(classes).ravel(), np.asarray(scores).ravel()
    if len(classes) and not 0 <= classes.min() <= classes.max() < len(class_names):
        raise ValueError(
            f"classes {classes.min()}..{classes.max()}, but {len(class_names)} names"
        )
    picture, scale = _enlarge(image, min_side)
    height, width = picture.shape[:2]
    canvas = Image.fromarray(picture)
    pen = ImageDraw.Draw(canvas)
    line = max(2, round(max(height, width) / 400))

    truths = np.zeros((0, 4)) if ground_truth is None else np.asarray(ground_truth)
    for box in truths.reshape(-1, 4) * scale:
        _dashed_rectangle(pen, _inside(box, width, height))

    # The best detection is drawn last, on top; its label is placed first.
    order = [
        i for i in np.argsort(-scores, kind="stable") if scores[i] >= score_threshold
    ]
    places = [_inside(box, width, height) for box in boxes * scale]
    for i in reversed(order):
        pen.rectangle(places[i], outline=class_color(int(classes[i])), width=line)
    font = _font(max(12, round(max(height, width) / 40)))
    taken: list[tuple[int, int, int, int]] = []
    labels = []
    for i in order:
        text = f"{class_names[int(classes[i])]} {scores[i]:.2f}"
        label = _place_label(pen, text, font, places[i], (width, height), taken)
        taken.append(label)
        labels.append((label, text, class_color(int(classes[i]))))
    for (x1, y1, x2, y2), text, color in reversed(labels):
        pen.rectangle((x1, y1, x2 - 1, y2 - 1), fill=color)
        pen.text(((x1 + x2) / 2, (y1 + y2) / 2), text, _ink(color), font, "mm")
    return np.asarray(canvas).copy()


def draw_batch(
    batch: Batch,
    predictions: Predictions,
    class_names: Sequence[str],
    *,
    score_threshold: float = 0.3,
    min_side: int = 480,
) -> list[np.ndarray]:
    """Draw every real image of a batch, without its padding.

    Args:
      batch: host arrays. Boxes that are valid and no crowd are drawn as ground truth.
      predictions: host arrays of the same rows.
      class_names, score_threshold, min_side: as in `draw_detections`.
    """
    pictures = []
    for row in np.flatnonzero(np.asarray(batch.image_id) >= 0):
        height, width = np.asarray(batch.image_size)[row]
        truth = np.asarray(batch.valid)[row] & ~np.asarray(batch.crowd)[row]
        found = np.asarray(predictions.valid)[row]
        pictures.append(
            draw_detections(
                np.ascontiguousarray(np.asarray(batch.image)[row, :height, :width]),
                np.asarray(predictions.boxes)[row][found],
                np.asarray(predictions.classes)[row][found],
                np.asarray(predictions.scores)[row][found],
                class_names,
                np.asarray(batch.boxes)[row][truth],
                score_threshold=score_threshold,
                min_side=min_side,
            )
        )
    return pictures


def save_contact_sheet(
    images: Sequence[np.ndarray],
    path: str | os.PathLike[str],
    titles: Sequence[str] | None = None,
    *,
    columns: int | None = None,
    cell: int = 480,
) -> None:
    """Write images beside each other, each with its title above, as one PNG.

    Args:
      images: (H, W, 3) uint8 RGB each; sizes may differ, each is fitted into a cell.
      path: where the PNG goes.
      titles: one for each image, cut to the cell's width.
      columns: images a row; default about the square root of their number.
      cell: side of a cell in pixels.

    Raises:
      ValueError: there is no image, or not one title for each.
    """
    if not len(images):
        raise ValueError("a contact sheet needs at least one image")
    if titles is not None and len(titles) != len(images):
        raise ValueError(f"{len(titles)} titles for {len(images)} images")
    columns = columns or math.ceil(math.sqrt(len(images)))
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    fitted = []
    for image in images:
        scale = cell / max(image.shape[:2])
        size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        fitted.append(cv2.resize(image, size, interpolation=how))
    tall = max(image.shape[0] for image in fitted)
    wide = max(image.shape[1] for image in fitted)
    gap, font = 12, _font(18)
    header = 30 if titles is not None else 0
    step_x, step_y = wide + gap, tall + header + gap
    sheet = Image.new("RGB", (columns * step_x + gap, rows * step_y + gap), "white")
    pen = ImageDraw.Draw(sheet)
    for k, image in enumerate(fitted):
        x, y = gap + k % columns * step_x, gap + k // columns * step_y
        if titles is not None:
            title = _shorten(pen, titles[k], font, wide)
            pen.text((x, y + header / 2 - 2), title, (30, 30, 30), font, "lm")
        sheet.paste(Image.fromarray(image), (x, y + header))
    sheet.save(path, "PNG")


def _enlarge(image: np.ndarray, min_side: int) -> tuple[np.ndarray, float]:
    scale = max(1.0, min_side / max(image.shape[:2]))
    if scale == 1.0:
        return image, 1.0
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), scale


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """matplotlib brings this font with it, so letters look alike on every machine."""
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)


def _inside(box: np.ndarray, width: int, height: int) -> tuple[int, int, int, int]:
    x1, x2 = np.clip([box[0], box[2]], 0, width - 1)
    y1, y2 = np.clip([box[1], box[3]], 0, height - 1)
    return round(x1), round(y1), round(max(x1, x2)), round(max(y1, y2))


def _dashed_rectangle(pen: ImageDraw.ImageDraw, box: Sequence[int]) -> None:
    """White dashes over a dark line: visible on bright and dark ground."""
    x1, y1, x2, y2 = box
    pen.rectangle((x1, y1, x2, y2), outline=(40, 40, 40), width=1)
    dash, period = 6, 10
    for start in range(x1, x2 + 1, period):
        end = min(start + dash, x2)
        pen.line((start, y1, end, y1), fill="white")
        pen.line((start, y2, end, y2), fill="white")
    for start in range(y1, y2 + 1, period):
        end = min(start + dash, y2)
        pen.line((x1, start, x1, end), fill="white")
        pen.line((x2, start, x2, end), fill="white")


def _place_label(pen, text, font, box, limits, taken) -> tuple[int, int, int, int]:
    """Above the box, else inside it, else below: where it covers the fewest labels."""
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
    if best is None:  # a picture lower than a line of text
        best = (x1, 0, x1 + wide, tall)
    return best


def _overlap(a: Sequence[int], b: Sequence[int]) -> int:
    wide = min(a[2], b[2]) - max(a[0], b[0])
    tall = min(a[3], b[3]) - max(a[1], b[1])
    return max(wide, 0) * max(tall, 0)


def _ink(color: Sequence[int]) -> tuple[int, int, int]:
    """Black or white, whichever stands out (luma of ITU-R BT.601)."""
    luma = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    return (0, 0, 0) if luma > 110 else (255, 255, 255)


def _shorten(pen, text: str, font, width: int) -> str:
    if pen.textlength(text, font) <= width:
        return text
    while text and pen.textlength(text + "…", font) > width:
        text = text[:-1]
    return text + "…"
