"""One panoptic map out of instance masks and a semantic map.

Kirillov et al., "Panoptic Feature Pyramid Networks", CVPR 2019, appendix: instances are
laid down best first, each on what is still free; one that is more than half covered is
dropped; then stuff fills what is left, unless its area is small.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int32, Integer

from agvm_jax.mask_pasting import paste_mask


@dataclasses.dataclass(frozen=True)
class MergeRule:
    """Thresholds of the merge, the keys of config.eval.panoptic.

    The defaults are those of detectron2.

    Attributes:
      score_threshold: instances below it are dropped.
      overlap_threshold: an instance is dropped of which better ones cover a larger
        share than this.
      stuff_area_limit: stuff of fewer pixels, in the original image, is left void.

    Raises:
      ValueError: a threshold that is no share, or a negative area.
    """

    score_threshold: float = 0.5
    overlap_threshold: float = 0.5
    stuff_area_limit: int = 4096

    def __post_init__(self):
        for name in ("score_threshold", "overlap_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"eval.panoptic.{name}={getattr(self, name)} must lie in 0 .. 1."
                )
        if self.stuff_area_limit < 0:
            raise ValueError(
                f"eval.panoptic.stuff_area_limit={self.stuff_area_limit} must be a"
                " number of pixels, 0 or more."
            )


def merge_panoptic(
    boxes: Float[np.ndarray, "D 4"],
    scores: Float[np.ndarray, " D"],
    categories: Sequence[int],
    masks: Float[np.ndarray, "D m m"],
    labels: Integer[np.ndarray, "H W"],
    label_categories: Sequence[int | None],
    rule: MergeRule,
) -> tuple[Int32[np.ndarray, "H W"], list[dict[str, Any]]]:
    """Return an (H, W) int32 map of segment ids, 0 for void, and its segments.

    The loop is over instances of a sufficient score, each within its own box; pixels
    and labels are looked at all at once.

    Args:
      boxes: (D, 4) x1 y1 x2 y2 in original pixels.
      scores: (D,).
      categories: the category id of each instance.
      masks: (D, m, m) probabilities over each box.
      labels: (H, W) semantic labels of the original image.
      label_categories: the stuff category id of each label; None for a label that is no
        stuff, such as "some thing". Labels outside are void.
      rule: thresholds.

    Returns:
      The segments have id (1, 2, ...), category_id, and score if they are instances.
    """
    segment_ids = np.zeros(labels.shape, np.int32)
    segments: list[dict[str, Any]] = []
    order = np.argsort(-scores, kind="stable")
    for d in order[scores[order] >= rule.score_threshold]:
        mask = paste_mask(masks[d], boxes[d], *labels.shape).astype(bool)
        inside = _window(boxes[d], labels.shape)
        mask, taken = mask[inside], segment_ids[inside]
        free = mask & (taken == 0)
        area, left = np.count_nonzero(mask), np.count_nonzero(free)
        if left == 0 or (area - left) / area > rule.overlap_threshold:
            continue
        segments.append(
            {
                "id": len(segments) + 1,
                "category_id": int(categories[d]),
                "score": float(scores[d]),
            }
        )
        taken[free] = len(segments)
    # Void and labels without a category go to one last bin.
    count = len(label_categories)
    known = (labels >= 0) & (labels < count) & (segment_ids == 0)
    binned = np.where(known, labels.astype(np.int64), count)
    areas = np.bincount(binned.ravel(), minlength=count + 1)
    ids = np.zeros(count + 1, np.int32)
    for label, category in enumerate(label_categories):
        if category is not None and areas[label] >= max(rule.stuff_area_limit, 1):
            segments.append({"id": len(segments) + 1, "category_id": int(category)})
            ids[label] = len(segments)
    return segment_ids + ids[binned], segments


def _window(box: np.ndarray, size: tuple[int, int]) -> tuple[slice, slice]:
    """Return the rows and columns outside of which a mask over a box is 0."""
    x1, y1, x2, y2 = np.clip(box, 0, [size[1], size[0]] * 2)
    rows, columns = (
        slice(int(np.floor(low)), int(np.ceil(high)))
        for low, high in ((y1, y2), (x1, x2))
    )
    return rows, columns
