"""What was found in one image, in the image's own pixels."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from agvm_jax.evaluation.metrics.panoptic_merge import MergeRule, merge_panoptic
from agvm_jax.evaluation.metrics.pixel_counts import enlarge_labels
from agvm_jax.inference.card import ModelCard
from agvm_jax.mask_pasting import encode_mask, paste_mask
from agvm_jax.structures import Predictions
from agvm_jax.visualization.drawing import draw_detections, draw_labels


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """Objects and labels of one image, best object first.

    Attributes:
      name: the image's path as it was given; "" for an array.
      size: height and width of the image.
      boxes: (n, 4) float64 x1 y1 x2 y2 in pixels of the image, (0, 4) where the model
        gives none.
      scores: (n,) float64 in [0, 1].
      classes: (n,) int64.
      names: n class names.
      masks: (n, H, W) bool, or None where the model gives none.
      semantic: (H, W) int32 labels, or None where the model gives none.
      panoptic: (H, W) int32 segment ids, 0 for void, where the model gives boxes, masks
        and labels; else None.
      segments: of the panoptic map: ``id``, ``category_id``, of things ``score``.
      card: of the model.
    """

    name: str
    size: tuple[int, int]
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    names: tuple[str, ...]
    masks: np.ndarray | None
    semantic: np.ndarray | None
    panoptic: np.ndarray | None
    segments: Sequence[dict[str, Any]]
    card: ModelCard

    def __len__(self) -> int:
        return len(self.boxes)

    def __str__(self) -> str:
        counts = {name: self.names.count(name) for name in dict.fromkeys(self.names)}
        objects = ", ".join(f"{count} {name}" for name, count in counts.items())
        return f"{self.name or 'image'}: {objects or 'no objects'}"

    def results(self, image_id: int) -> list[dict[str, Any]]:
        """Returns the objects as a COCO results list, ready for `json.dump`."""
        listed = [
            {
                "image_id": image_id,
                "category_id": self.card.category_ids[k],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
            }
            for (x1, y1, x2, y2), score, k in zip(
                self.boxes.tolist(),
                self.scores.tolist(),
                self.classes.tolist(),
                strict=True,
            )
        ]
        if self.masks is not None:
            for one, mask in zip(listed, self.masks, strict=True):
                counts = encode_mask(mask.astype(np.uint8)).decode("ascii")
                one["segmentation"] = {"size": list(self.size), "counts": counts}
        return listed

    def draw(self, image: np.ndarray, min_side: int = 480) -> np.ndarray:
        """Returns a copy of the image with what was found in it.

        Args:
          image: (H, W, 3) uint8 RGB, of `size`.
          min_side: an image whose longer side is shorter is enlarged to it; 0: none is.
        """
        if self.semantic is not None:
            labels = self.semantic
            image = draw_labels(image, labels, self.card.label_names, min_side=0)
        if "boxes" not in self.card.outputs:
            return image
        return draw_detections(
            image,
            self.boxes,
            self.classes,
            self.scores,
            self.card.class_names,
            regions=None if self.masks is None else list(self.masks),
            min_side=min_side,
        )


def in_image(
    predictions: Predictions,
    row: int,
    *,
    name: str,
    size: tuple[int, int],
    window: tuple[int, int],
    frame: tuple[int, int],
    card: ModelCard,
    score: float,
    rule: MergeRule | None = None,
) -> Found:
    """Takes one row of predictions into the pixels of its image.

    Args:
      predictions: of a batch, host arrays.
      row: which one.
      name, size: of the image.
      window: height and width of the image inside the padded input.
      frame: height and width of the padded input.
      card: of the model.
      score: objects below it are left out.
      rule: of the panoptic map; None: the usual thresholds.
    """
    scale = np.array(size, np.float64) / np.array(window)
    boxes, scores, classes, cells = _objects(predictions, row, scale, score)
    masks = None
    if "masks" in card.outputs:
        pasted = [paste_mask(m, b, *size) for m, b in zip(cells, boxes, strict=True)]
        masks = np.array(pasted, bool).reshape(len(boxes), *size)
    semantic = panoptic = None
    segments: Sequence[dict[str, Any]] = ()
    if "semantic" in card.outputs:
        labels = np.asarray(predictions.semantic)[row]
        semantic = enlarge_labels(labels, window, frame, size).astype(np.int32)
    if masks is not None and semantic is not None:
        # Its own threshold, not the one for what is shown.
        everything = _objects(predictions, row, scale, 0.0)
        panoptic, segments = merge_panoptic(
            everything[0],
            everything[1],
            [card.category_ids[k] for k in everything[2].tolist()],
            everything[3],
            semantic,
            card.label_ids,
            rule or MergeRule(),
        )
    return Found(
        name=name,
        size=tuple(size),
        boxes=boxes,
        scores=scores,
        classes=classes,
        names=tuple(card.class_names[k] for k in classes.tolist()),
        masks=masks,
        semantic=semantic,
        panoptic=panoptic,
        segments=segments,
        card=card,
    )


def _objects(
    predictions: Predictions, row: int, scale: np.ndarray, score: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Returns boxes in original pixels, scores, classes, and mask cells if any."""
    if predictions.boxes is None:
        nothing = np.zeros(0)
        return nothing.reshape(0, 4), nothing, nothing.astype(np.int64), None
    scores = np.asarray(predictions.scores)[row].astype(np.float64)
    boxes = np.asarray(predictions.boxes)[row].astype(np.float64)
    kept = np.asarray(predictions.valid)[row] & (scores >= score)
    kept &= np.isfinite(boxes).all(axis=-1)
    masks = predictions.masks
    return (
        boxes[kept] * scale[[1, 0, 1, 0]],
        scores[kept],
        np.asarray(predictions.classes)[row][kept].astype(np.int64),
        None if masks is None else np.asarray(masks)[row][kept],
    )
