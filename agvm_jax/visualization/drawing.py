"""Images with drawn boxes, masks and labels, large enough for their letters."""

import math
import os
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from agvm_jax.mask_pasting import paste_mask
from agvm_jax.visualization.canvas import (
    class_color,
    dashed_rectangle,
    dotted_rectangle,
    enlarge,
    ink,
    inside,
    letters,
    place_label,
    shorten,
)

Stroke = Callable[[ImageDraw.ImageDraw, Sequence[int]], None]

# With more detections than this in an image their labels would hide what they name.
MOST_LABELS = 30


def draw_detections(
    image: np.ndarray,
    boxes: np.ndarray,
    classes: np.ndarray,
    scores: np.ndarray,
    class_names: Sequence[str],
    ground_truth: np.ndarray | None = None,
    *,
    crowds: np.ndarray | None = None,
    masks: np.ndarray | None = None,
    regions: Sequence[np.ndarray] | None = None,
    score_threshold: float = 0.0,
    min_side: int = 480,
) -> np.ndarray:
    """Return a copy of `image` with boxes, class names and scores.

    Above `MOST_LABELS` detections the names and scores are left out, colors stay.

    Args:
      image: (H, W, 3) uint8 RGB.
      boxes: (D, 4) x1 y1 x2 y2 in pixels of `image`.
      classes: (D,) 0..K-1.
      scores: (D,) in [0, 1].
      class_names: K names.
      ground_truth: (G, 4) boxes, drawn as thin dashed white lines.
      crowds: (C, 4) boxes of crowd regions, drawn as thin dotted white lines.
      masks: (D, m, m) probabilities over each box; tinted where they reach 0.5.
      regions: D masks (H, W) of the whole image instead; tinted where they are not 0.
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
    # The best detection lies on top, and its label is placed first.
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] >= score_threshold]
    return draw_objects(
        image,
        boxes[order],
        classes[order],
        [f"{class_names[classes[i]]} {scores[i]:.2f}" for i in order],
        masks=None if masks is None else [masks[i] for i in order],
        regions=None if regions is None else [regions[i] for i in order],
        below=((crowds, dotted_rectangle), (ground_truth, dashed_rectangle)),
        min_side=min_side,
    )


def draw_objects(
    image: np.ndarray,
    boxes: np.ndarray,
    classes: np.ndarray,
    texts: Sequence[str],
    *,
    crowd: np.ndarray | None = None,
    masks: Sequence[np.ndarray] | None = None,
    regions: Sequence[np.ndarray] | None = None,
    below: Sequence[tuple[np.ndarray | None, Stroke]] = (),
    min_side: int = 480,
) -> np.ndarray:
    """Return a copy of `image` with boxes, masks and texts in their classes' colours.

    The first object lies on top. Above `MOST_LABELS` objects the texts are left out.

    Args:
      image, masks, regions, min_side: as in `draw_detections`.
      boxes: (D, 4) x1 y1 x2 y2 in pixels of `image`.
      classes: (D,) integers, 0 or more.
      texts: D labels.
      crowd: (D,) bool; crowd regions are dotted, without a text.
      below: boxes (G, 4), or None, and how they are outlined, before the objects are.
    """
    pixels, scale = enlarge(image, min_side)
    height, width = pixels.shape[:2]
    boxes, colors = boxes * scale, [class_color(k) for k in classes.tolist()]
    crowd = np.zeros(len(boxes), bool) if crowd is None else crowd
    if masks is not None or regions is not None:
        pixels = pixels.copy()
        for i in reversed(range(len(boxes))):
            if masks is not None:
                where = paste_mask(masks[i], boxes[i], height, width)
            else:
                where = cv2.resize(
                    regions[i].astype(np.uint8),
                    (width, height),
                    interpolation=cv2.INTER_NEAREST,
                )
            where = where.astype(bool)
            pixels[where] = _tint(pixels[where], colors[i])
    canvas = Image.fromarray(pixels)
    pen = ImageDraw.Draw(canvas)
    line = max(2, round(max(height, width) / 400))
    for outlines, stroke in below:
        for box in [] if outlines is None else np.reshape(outlines, (-1, 4)) * scale:
            stroke(pen, inside(box, width, height))

    places = [inside(box, width, height) for box in boxes]
    for i in reversed(range(len(places))):
        if crowd[i]:
            dotted_rectangle(pen, places[i])
        else:
            pen.rectangle(places[i], outline=colors[i], width=line)
    font = letters(max(12, round(max(height, width) / 40)))
    labels: dict[int, tuple[int, int, int, int]] = {}
    for i in np.flatnonzero(~crowd).tolist() if len(places) <= MOST_LABELS else ():
        limits, taken = (width, height), list(labels.values())
        labels[i] = place_label(pen, texts[i], font, places[i], limits, taken)
    for i, (x1, y1, x2, y2) in reversed(labels.items()):
        pen.rectangle((x1, y1, x2 - 1, y2 - 1), fill=colors[i])
        middle = (x1 + x2) / 2, (y1 + y2) / 2
        pen.text(middle, texts[i], ink(colors[i]), font, "mm")
    return np.asarray(canvas).copy()


def draw_labels(
    image: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    strength: float = 0.5,
    min_side: int = 480,
) -> np.ndarray:
    """Return a copy of `image` tinted by class, with each class's name in its midst.

    Args:
      image: (H, W, 3) uint8 RGB.
      labels: (h, w) labels 0..K-1 at any resolution; others are left untinted.
      class_names: K names.
      strength: of the tint, in [0, 1].
      min_side: as in `draw_detections`.
    """
    pixels, _ = enlarge(image, min_side)
    height, width = pixels.shape[:2]
    rows = (np.arange(height) + 0.5) * labels.shape[0] / height
    columns = (np.arange(width) + 0.5) * labels.shape[1] / width
    labels = labels[np.ix_(rows.astype(int), columns.astype(int))]
    pixels = pixels.copy()
    names = []
    for k, name in enumerate(class_names):
        where = labels == k
        if where.any():
            pixels[where] = _tint(pixels[where], class_color(k), strength)
            # The name goes to the pixel that lies deepest in the class's area.
            depth = cv2.distanceTransform(
                np.pad(where, 1).view(np.uint8), cv2.DIST_L2, 3
            )
            y, x = np.unravel_index(int(np.argmax(depth[1:-1, 1:-1])), where.shape)
            names.append((int(x), int(y), name, class_color(k)))
    canvas = Image.fromarray(pixels)
    pen = ImageDraw.Draw(canvas)
    font = letters(max(12, round(max(height, width) / 40)))
    for x, y, name, color in names:
        left, top, right, bottom = pen.textbbox((0, 0), name, font, "mm")
        x = int(np.clip(x, 4 - left, max(width - 4 - right, 4 - left)))
        y = int(np.clip(y, 4 - top, max(height - 4 - bottom, 4 - top)))
        left, top, right, bottom = left + x, top + y, right + x, bottom + y
        pen.rectangle((left - 4, top - 4, right + 4, bottom + 4), fill=color)
        pen.text((x, y), name, ink(color), font, "mm")
    return np.asarray(canvas).copy()


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
    gap, font = 12, letters(18)
    header = 30 if titles is not None else 0
    step_x, step_y = wide + gap, tall + header + gap
    sheet = Image.new("RGB", (columns * step_x + gap, rows * step_y + gap), "white")
    pen = ImageDraw.Draw(sheet)
    for k, image in enumerate(fitted):
        x, y = gap + k % columns * step_x, gap + k // columns * step_y
        if titles is not None:
            title = shorten(pen, titles[k], font, wide)
            pen.text((x, y + header / 2 - 2), title, (30, 30, 30), font, "lm")
        sheet.paste(Image.fromarray(image), (x, y + header))
    sheet.save(path, "PNG")


def _tint(
    pixels: np.ndarray, color: tuple[int, int, int], strength: float = 0.45
) -> np.ndarray:
    mixed = (1 - strength) * pixels + strength * np.array(color)
    return np.round(mixed).astype(np.uint8)
