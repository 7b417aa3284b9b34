"""One panoptic map out of instance masks and a semantic map.

Kirillov et al., "Panoptic Feature Pyramid Networks", CVPR 2019, appendix: instances are
laid down best first, each on what is still free; one that is more than half covered is
dropped; then stuff fills what is left, unless its area is small.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from agvm_jax.mask_pasting import paste_mask


@dataclasses.dataclass(frozen=True)
class MergeRule:
    """Thresholds of the merge; the defaults are those of detectron2.

    Attributes:
      score: instances below it are dropped.
      covered: an instance that better ones cover to a greater share is dropped.
      stuff_area: stuff of fewer pixels, in the original picture, is left void.
    """

    score: float = 0.5
    covered: float = 0.5
    stuff_area: int = 4096


def merge_panoptic(
    boxes: np.ndarray,
    scores: np.ndarray,
    categories: Sequence[int],
    masks: np.ndarray,
    labels: np.ndarray,
    label_categories: Sequence[int | None],
    rule: MergeRule,
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Return an (H, W) int32 map of segment ids, 0 for void, and its segments.

    Args:
      boxes: (D, 4) x1 y1 x2 y2 in original pixels.
      scores: (D,).
      categories: the category id of each instance.
      masks: (D, m, m) probabilities over each box.
      labels: (H, W) semantic labels of the original picture.
      label_categories: the stuff category id of each label; None for a label that is no
        stuff, such as "some thing". Labels outside are void.
      rule: thresholds.

    Returns:
      The segments have id (1, 2, ...), category_id, and score if they are instances.
    """
    height, width = labels.shape
    picture = np.zeros((height, width), np.int32)
    segments: list[dict[str, Any]] = []
    for d in np.argsort(-np.asarray(scores), kind="stable"):
        if not scores[d] >= rule.score:
            continue
        mask = paste_mask(masks[d], boxes[d], height, width).astype(bool)
        free = mask & (picture == 0)
        area, left = np.count_nonzero(mask), np.count_nonzero(free)
        if left == 0 or (area - left) / area > rule.covered:
            continue
        segments.append(
            {
                "id": len(segments) + 1,
                "category_id": int(categories[d]),
                "score": float(scores[d]),
            }
        )
        picture[free] = len(segments)
    for label, category in enumerate(label_categories):
        if category is None:
            continue
        free = (labels == label) & (picture == 0)
        if np.count_nonzero(free) >= max(rule.stuff_area, 1):
            segments.append({"id": len(segments) + 1, "category_id": int(category)})
            picture[free] = len(segments)
    return picture, segments
