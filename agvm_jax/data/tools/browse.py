"""Look at what a config trains on: a contact sheet of augmented samples, and tables.

    python -m agvm_jax.data.tools.browse --config configs/quickstart.py

Config keys can be overridden as in training, --config.data.root=PATH for one. Crowd
regions are drawn dotted.
"""

import collections
import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from absl import app, flags, logging
from ml_collections import config_flags

from agvm_jax.data.augment.augmentation import Augmentation, Resizing, still_placement
from agvm_jax.data.dataset import Dataset, open_dataset
from agvm_jax.data.order import oriented
from agvm_jax.data.pipeline import train_batches
from agvm_jax.data.storage.records import Source
from agvm_jax.data.tools.label_table import label_table
from agvm_jax.structures import Batch
from agvm_jax.visualization.drawing import draw_labels, draw_objects, save_contact_sheet

_READ = 5000  # images whose objects the table counts at most
_FILL = Resizing()
_SIZES = (32, 96)  # COCO's borders between small, medium and large, in pixels


def draw_samples(batch: Batch, dataset: Dataset, semantic: str) -> list[np.ndarray]:
    """One image for each row of a batch: labels, masks, boxes and names."""
    images = []
    for row in range(len(batch.image)):
        height, width = batch.image_size[row]
        image = np.ascontiguousarray(batch.image[row, :height, :width])
        if batch.semantic is not None:
            cells = [
                -(-side * whole // full)
                for side, whole, full in zip(
                    (height, width),
                    batch.semantic.shape[1:],
                    batch.image.shape[1:3],
                    strict=True,
                )
            ]
            labels = batch.semantic[row, : cells[0], : cells[1]]
            image = draw_labels(image, labels, dataset.label_names(semantic))
        valid = batch.valid[row]
        classes = batch.classes[row][valid]
        # Labels are drawn on an image that is enlarged first.
        scale = np.array(image.shape[1::-1] * 2) / (width, height, width, height)
        drawn = draw_objects(
            image,
            batch.boxes[row][valid] * scale,
            classes,
            [dataset.class_names[k] for k in classes.tolist()],
            crowd=batch.crowd[row][valid],
            masks=None if batch.masks is None else batch.masks[row][valid],
        )
        images.append(drawn)
    return images


def table(
    source: Source,
    image_size: tuple[int, int],
    resizing: Resizing = _FILL,
    turned: bool = False,
) -> Iterator[str]:
    """Lines: objects and images of each class, and how large they are at the input.

    Args:
      source: of more than 5000 images, as many are taken at even distances.
      image_size: (H, W) that training resizes to.
      resizing: how.
      turned: whether images higher than wide have a frame of their own.
    """
    names = source.card.class_names
    step = -(-len(source) // _READ)
    objects: collections.Counter[int] = collections.Counter()
    images: collections.Counter[int] = collections.Counter()
    sides: dict[int, list[float]] = collections.defaultdict(list)
    for index in range(0, len(source), step):
        example = source[index]
        size = (example["height"], example["width"])
        if min(size) < 1:
            continue
        frame = image_size
        if turned:
            frame = oriented(frame, size)
        placement = still_placement(size, frame, resizing)
        boxes, keep = placement.boxes(example["boxes"])
        targets = keep & ~example["crowd"]
        classes = example["classes"][targets]
        images.update(set(classes.tolist()))
        objects.update(classes.tolist())
        extent = boxes[targets, 2:] - boxes[targets, :2]
        for k, side in zip(classes, np.sqrt(extent.prod(axis=1)), strict=True):
            sides[int(k)].append(float(side))
    yield (
        f"{source.card.split}: objects in {-(-len(source) // step)} of"
        f" {len(source)} images, sizes as the network sees them"
        f" ({image_size[0]} x {image_size[1]})"
    )
    width = max([5, *(len(name) for name in names)])
    yield (
        f"  {'class':<{width}}  objects  images  median side"
        f"  <{_SIZES[0]}  <{_SIZES[1]}  larger"
    )
    for k, count in objects.most_common():
        shares = np.histogram(sides[k], [0, *_SIZES, np.inf])[0] / count
        yield (
            f"  {names[k]:<{width}}  {count:7d}  {images[k]:6d}"
            f"  {np.median(sides[k]):8.1f} px"
            + "".join(f"  {100 * share:3.0f}%" for share in shares)
        )
    missing = [name for k, name in enumerate(names) if k not in objects]
    if missing:
        yield f"  without an object: {', '.join(missing)}"


def samples(
    source: Source, image_size: tuple[int, int], count: int, config: Any
) -> list[Batch]:
    """Training batches with `count` images or a few more, of both orientations."""
    data, rows = config.data, count
    if data.orientation_group:
        # Groups so small that some of either kind are on the sheet.
        data = data.copy_and_resolve_references()
        rows = data.orientation_group = max(1, count // 8)
    stream = train_batches(
        source,
        image_size=image_size,
        batch_size=rows,
        seed=config.seed,
        data_config=data,
    )
    batches = list(itertools.islice(stream, -(-count // rows)))
    stream.close()
    return batches


def main(arguments: Sequence[str]) -> int:
    """Write the sheet, print the table. Returns the exit code."""
    del arguments
    logging.set_verbosity(logging.WARNING)
    config = FLAGS.config
    size = tuple(config.image_size)
    size = size * 2 if len(size) == 1 else size
    try:
        dataset = open_dataset(config.data)
        batches = samples(dataset.train, size, FLAGS.images, config)
    except ValueError as error:  # DataError is one
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(dataset.report))
    if dataset.class_names:
        for source in (dataset.train, dataset.val):
            resizing = Augmentation.of(config.data).resizing
            turned = config.data.orientation_group > 0
            print("\n".join(table(source, size, resizing, turned)))
    semantic = config.data.semantic
    if semantic != "none":
        for source in (dataset.train, dataset.val):
            print("\n".join(label_table(source)))
    images = [i for batch in batches for i in draw_samples(batch, dataset, semantic)]
    titles = [f"image {i}" for batch in batches for i in batch.image_id]
    save_contact_sheet(images[: FLAGS.images], FLAGS.output, titles[: FLAGS.images])
    print(f"wrote {FLAGS.output}")
    return 0


FLAGS = flags.FLAGS

if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", "configs/quickstart.py", lock_config=True)
    flags.DEFINE_integer("images", 16, "Samples on the sheet.", lower_bound=1)
    flags.DEFINE_string("output", "browse.png", "Where the sheet goes.")
    app.run(main)
