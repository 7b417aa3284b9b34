"""Pixels of each true class under each predicted class, and what follows from them."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Integer

# Height and width.
Size = Sequence[int | np.integer] | Integer[np.ndarray, "2"]


def count_pixels(
    truth: Integer[np.ndarray, "..."], labels: Integer[np.ndarray, "..."], classes: int
) -> Int[np.ndarray, "K K+1"]:
    """Return (K, K + 1) counts: row the true class, column the label, last for others.

    Pixels whose true class is not in 0..K-1 are left out.

    Raises:
      ValueError: the maps differ in size.
    """
    if truth.shape != labels.shape:
        raise ValueError(
            f"labels of size {labels.shape} against a truth of size {truth.shape}"
        )
    counted = (truth >= 0) & (truth < classes)
    true = truth[counted].astype(np.int64)
    called = labels[counted].astype(np.int64)
    called[(called < 0) | (called >= classes)] = classes
    cells = np.bincount(
        true * (classes + 1) + called, minlength=classes * (classes + 1)
    )
    return cells.reshape(classes, classes + 1)


def enlarge_labels(
    labels: Integer[np.ndarray, "h w"],
    image_size: Size,
    padded_size: Size,
    original_size: Size,
) -> Integer[np.ndarray, "H W"]:
    """Return the labels of the original image's pixels, nearest neighbour.

    Args:
      labels: (h, w) over the padded input, at any stride.
      image_size: height and width of the image inside the padded input.
      padded_size: height and width of the padded input.
      original_size: height and width of the original image.
    """
    index = []
    for cells, size, padded, original in zip(
        labels.shape, image_size, padded_size, original_size, strict=True
    ):
        # A pixel's centre, from the original image to the padded input to a cell.
        position = (np.arange(original) + 0.5) * (size / original) * (cells / padded)
        index.append(np.minimum(position.astype(np.int64), cells - 1))
    return labels[np.ix_(*index)]


def mean_of_defined(values: Float[np.ndarray, " K"]) -> float:
    """Return the mean of (K,) values without those that are NaN, -1 if all are."""
    defined = values[~np.isnan(values)]
    return float(np.mean(defined)) if defined.size else -1.0


def ratios(
    counts: Int[np.ndarray, "K K+1"],
) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, " K"]]:
    """Return IoU and accuracy of each class, (K,) each, NaN where undefined.

    Args:
      counts: (K, K + 1) of `count_pixels`.
    """
    right = np.diagonal(counts).astype(np.float64)
    true = counts.sum(axis=1)
    union = true + counts[:, :-1].sum(axis=0) - right
    iou = np.divide(right, union, out=np.full_like(right, np.nan), where=union > 0)
    accuracy = np.divide(right, true, out=np.full_like(right, np.nan), where=true > 0)
    return iou, accuracy
