"""How often each class of a label map occurs in a split, as lines to print."""

from collections.abc import Iterator

import numpy as np

from agvm_jax.data.annotations.segments import load_segments
from agvm_jax.data.storage.records import Source


def label_table(source: Source, most: int = 1000) -> Iterator[str]:
    """Lines: the images that show each class, and its share of all pixels.

    Things and stuff, in the original images; void comes last.

    Args:
      source: a split with segments.
      most: of more images than this, as many are read at even distances.
    """
    names = (*source.card.class_names, *source.card.stuff_names)
    step = -(-len(source) // most)
    pixels = np.zeros(len(names) + 1, np.int64)  # the last is void
    images = np.zeros(len(names) + 1, np.int64)
    for index in range(0, len(source), step):
        segments = load_segments(source[index])
        areas = np.bincount(
            segments.numbers.ravel(), minlength=len(segments.classes) + 1
        )
        own = np.zeros_like(pixels)
        np.add.at(own, np.append(len(names), segments.classes), areas)
        pixels += own
        images += own > 0
    yield (
        f"{source.card.split}: labels in {-(-len(source) // step)} of"
        f" {len(source)} images"
    )
    width = max([5, *(len(name) for name in names)])
    yield f"  {'class':<{width}}  images  share of pixels"
    shares = 100 * pixels / max(1, pixels.sum())
    order = np.argsort(-pixels[:-1], kind="stable").tolist()
    for k in (k for k in (*order, len(names)) if pixels[k]):
        name = "(void)" if k == len(names) else names[k]
        yield f"  {name:<{width}}  {images[k]:6d}  {shares[k]:14.2f}%"
    missing = [name for name, count in zip(names, pixels, strict=False) if not count]
    if missing:
        yield f"  without a pixel: {', '.join(missing)}"
