"""Random crops: which part of a picture training looks at."""

import dataclasses

import numpy as np

from agvm_jax.data.augment.decode import Size

Part = tuple[int, int, int, int]  # y, x, height, width, in pixels of the picture

# Least IoU that some object must have with the crop; None: the whole picture.
# Liu et al. 2016 ("SSD"), section 2.2.
_LEAST_OVERLAPS = (None, 0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
_TRIALS = 50
_RATIOS = (0.5, 2.0)  # of a crop's height to its width


@dataclasses.dataclass(frozen=True)
class Cropping:
    """The rule by which a part of a picture is chosen.

    Attributes:
      kind: "none": the whole picture. "frame": too; it keeps its own size, and the
        frame is a window of it, see `Resizing.fits`. "size": each side is cut to a
        share drawn from `shares`, anywhere. "iou": SSD's crop, which looks for a part
        that some object overlaps by a drawn IoU; objects whose centre lies outside are
        left out.
      shares: smallest and largest share of a side that a crop keeps.
      probability: of cropping at all.
    """

    kind: str = "none"
    shares: tuple[float, float] = (0.3, 1.0)
    probability: float = 1.0

    def draw(self, rng: np.random.Generator, size: Size, boxes: np.ndarray) -> Part:
        """Choose a part of a picture.

        Args:
          size: of the picture.
          boxes: (n, 4) x1 y1 x2 y2 of its objects, without crowd regions.
        """
        whole = (0, 0, *size)
        if self.kind == "none" or rng.random() >= self.probability:
            return whole
        if self.kind == "size":
            return _parts(rng, size, self.shares, 1)[0]
        return self._overlapping(rng, size, boxes) or whole

    def _overlapping(
        self, rng: np.random.Generator, size: Size, boxes: np.ndarray
    ) -> Part | None:
        """SSD's crop; None where it wants the whole picture or no trial fits."""
        least = _LEAST_OVERLAPS[rng.integers(len(_LEAST_OVERLAPS))]
        if least is None or len(boxes) == 0:
            return None
        for part in _parts(rng, size, self.shares, _TRIALS):
            y, x, height, width = part
            if not _RATIOS[0] <= height / width <= _RATIOS[1]:
                continue
            inside = centers_inside(boxes, part)
            if inside.any() and _ious(boxes[inside], part).max() >= least:
                return part
        return None


def _parts(
    rng: np.random.Generator, size: Size, shares: tuple[float, float], count: int
) -> list[Part]:
    """`count` parts whose sides and places are drawn evenly, of a pixel at least."""
    low, high = shares
    u = rng.random((count, 4))
    extent = np.rint((low + (high - low) * u[:, :2]) * size).clip(1, size)
    corner = np.floor(u[:, 2:] * (size - extent + 1))
    return [tuple(part) for part in np.hstack([corner, extent]).astype(int).tolist()]


def centers_inside(boxes: np.ndarray, part: Part) -> np.ndarray:
    """(n, 4) boxes -> (n,) bool: whether a box's centre lies in the part."""
    y, x, height, width = part
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((centers >= (x, y)) & (centers < (x + width, y + height))).all(axis=1)


def _ious(boxes: np.ndarray, part: Part) -> np.ndarray:
    """(n, 4) boxes -> (n,) IoU of each with the part."""
    y, x, height, width = part
    low = np.maximum(boxes[:, :2], (x, y))
    high = np.minimum(boxes[:, 2:], (x + width, y + height))
    shared = (high - low).clip(min=0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return shared / (areas + height * width - shared)
