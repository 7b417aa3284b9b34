"""Sources made of lists of examples, and batches taken from them."""

import dataclasses
import itertools

import numpy as np
from coco_files import noise_png

from agvm_jax.data.pipeline import train_batches


class Listed:
    """A source made of a list of examples."""

    def __init__(self, examples):
        self.examples = examples

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        return self.examples[index]


def example(image_id, boxes=1, image=None, size=(20, 30)):
    rng = np.random.default_rng(image_id)
    corner = rng.uniform(0, 10, (boxes, 2))
    return {
        "image": noise_png(*size, seed=image_id) if image is None else image,
        "file_name": f"{image_id}.png",
        "image_id": image_id,
        "height": size[0],
        "width": size[1],
        "boxes": np.concatenate([corner, corner + 8], axis=1).astype(np.float32),
        "classes": np.arange(boxes, dtype=np.int32),
        "turn": 1,
        "crowd": np.zeros(boxes, bool),
        "area": np.full(boxes, 64, np.float32),
    }


def listed(count, **options):
    return Listed([example(i, **options) for i in range(count)])


def take(source, config, count, *, batch_size=4, seed=0, size=(32, 48), **options):
    """`count` training batches and the counters after them."""
    batches = train_batches(
        source,
        image_size=size,
        batch_size=batch_size,
        seed=seed,
        data_config=config,
        **options,
    )
    try:
        return list(itertools.islice(batches, count)), batches.counters
    finally:
        batches.close()


def assert_same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        for field in dataclasses.fields(a):
            x, y = getattr(a, field.name), getattr(b, field.name)
            np.testing.assert_array_equal(x, y, err_msg=field.name)
