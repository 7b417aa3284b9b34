"""What a label map loses by the size it is made at, for a perfect network of stride 4.

    python -m benchmarks.label_resolution --root CAMVID --train-labels trainannot \\
        --val-labels valannot --void 11 --names sky building pole road pavement tree \\
        sign fence car pedestrian bicyclist

The folder is a `label_folder` set (docs/data.md). For each validation image the
network's logits are the exact shares of each class in each cell of 4x4 pixels of the
input, so only what comes after the logits is measured. The input has a given number of
pixels on its shorter side; truth and score have the image's own size. Compared are

* cells: the best class of each cell, enlarged to the image by nearest neighbour;
* labels: the best class of each pixel of the input from bilinear logits, then to the
  image by nearest neighbour; x2, x3, x4: the same at so many times the input's size;
* logits: bilinear logits at the image's size, then the best class, as published mIoU
  is made.

Figures are mIoU in percent, of all images.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from agvm_jax.data.dataset import open_dataset
from agvm_jax.evaluation.metrics.pixel_counts import (
    count_pixels,
    enlarge_labels,
    mean_of_defined,
    ratios,
)
from configs import base
from models.heads.semantic import STRIDE
from models.ops.pixel_classes import pixel_classes

pixel_classes = jax.jit(pixel_classes, static_argnums=(1, 2))
WAYS = ("cells", "labels", "x2", "x3", "x4", "logits")


def shares(edge: int, cells: int, resized: int) -> np.ndarray:
    """(cells, edge): how much of each pixel of an image lies in each cell's area.

    Args:
      edge: pixels of the image.
      cells: of the map, STRIDE pixels of the input each.
      resized: pixels of the image in the input.
    """
    borders = np.minimum(np.arange(cells + 1) * STRIDE, resized) * (edge / resized)
    low = np.maximum(borders[:-1, None], np.arange(edge))
    high = np.minimum(borders[1:, None], np.arange(edge) + 1)
    return np.maximum(high - low, 0)


def between(edge: int, cells: int, resized: int) -> np.ndarray:
    """(edge, cells): weights that interpolate a map at an image's pixels' centres."""
    at = (np.arange(edge) + 0.5) * (resized / edge) / STRIDE - 0.5
    at = at.clip(0, cells - 1)
    first = np.floor(at).astype(int)
    weights = np.zeros((edge, cells))
    weights[np.arange(edge), first] = 1 - (at - first)
    weights[np.arange(edge), np.minimum(first + 1, cells - 1)] += at - first
    return weights


def found(truth: np.ndarray, classes: int, short_side: int) -> dict[str, np.ndarray]:
    """The labels (H, W) of each way for one image's true labels (H, W)."""
    scale = short_side / min(truth.shape)
    resized = [round(edge * scale) for edge in truth.shape]
    cells = [-(-edge // STRIDE) for edge in resized]
    padded = tuple(count * STRIDE for count in cells)
    # Void is a class of its own here: a network has to say something there, and what it
    # says does not count.
    onehot = (truth[..., None] == np.arange(classes)).astype(np.float32)
    rows, columns = (
        shares(*sides).astype(np.float32)
        for sides in zip(truth.shape, cells, resized, strict=True)
    )
    logits = np.tensordot(rows, onehot, 1)
    logits = columns @ logits
    logits /= np.maximum(logits.sum(axis=-1, keepdims=True), 1e-6)
    finer = {}
    for name, factor in {"labels": 1, "x2": 2, "x3": 3, "x4": 4}.items():
        size = tuple(factor * side for side in padded)
        labels = np.asarray(
            pixel_classes(jnp.asarray(logits)[None], size, factor * STRIDE)[0]
        )
        finer[name] = enlarge_labels(labels, resized, padded, truth.shape)
    rows, columns = (
        between(*sides).astype(np.float32)
        for sides in zip(truth.shape, cells, resized, strict=True)
    )
    at_image = np.tensordot(rows, logits, 1)
    at_image = columns @ at_image
    return {
        "cells": enlarge_labels(logits.argmax(-1), resized, padded, truth.shape),
        **finer,
        "logits": at_image.argmax(-1),
    }


def measure(truths: list[np.ndarray], classes: int, short_side: int) -> dict:
    """mIoU of each way, fractions."""
    counts = dict.fromkeys(WAYS, 0)
    for truth in truths:
        for way, labels in found(truth, classes, short_side).items():
            counts[way] = counts[way] + count_pixels(truth, labels, classes)
    return {way: mean_of_defined(ratios(some)[0]) for way, some in counts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", required=True)
    parser.add_argument("--train-labels", default="train_labels")
    parser.add_argument("--val-labels", default="val_labels")
    parser.add_argument("--void", type=int, nargs="*", default=(255,))
    parser.add_argument("--names", nargs="*", default=(), help="else: classes.txt")
    parser.add_argument("--cache", default="~/.cache/agvm_jax")
    parser.add_argument(
        "--short-sides", type=int, nargs="+", default=(180, 256, 360, 512, 720)
    )
    arguments = parser.parse_args()
    config = base.get_config().data
    config.update(
        name="label_folder",
        root=arguments.root,
        cache_dir=arguments.cache,
        train_labels=arguments.train_labels,
        val_labels=arguments.val_labels,
        label_names=tuple(arguments.names),
        label_void=tuple(arguments.void),
        semantic="all",
    )
    dataset = open_dataset(config)
    classes = len(dataset.label_names("all"))
    truths = [dataset.val.labels(i, "all") for i in dataset.val.index_of]
    sizes = sorted({truth.shape for truth in truths})
    print(f"{len(truths)} images of {sizes}, {classes} classes; mIoU in percent")
    print("short side" + "".join(f"{way:>9}" for way in WAYS))
    for side in arguments.short_sides:
        numbers = measure(truths, classes, side)
        row = "".join(f"{100 * numbers[way]:9.2f}" for way in WAYS)
        print(f"{side:10}{row}", flush=True)


if __name__ == "__main__":
    main()
