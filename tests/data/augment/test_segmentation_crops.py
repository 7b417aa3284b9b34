"""Frames cut out of larger images for segmentation: cat_max_ratio, whole frames."""

import dataclasses

import numpy as np
import pytest

from agvm_jax.data.augment.augmentation import (
    Augmentation,
    Resizing,
    sample,
    still_placement,
)

FRAME = (40, 56)


def share_of_most(transform, labels):
    """Classes that a sampled window shows and the share of the commonest, by a loop."""
    placement, counts = transform.placement, {}
    (y, x), (height, width) = placement.corner, placement.window
    sy, sx = (o / n for o, n in zip(placement.size, placement.resized, strict=True))
    for i in range(height):
        for j in range(width):
            label = labels[int((y + i + 0.5) * sy), int((x + j + 0.5) * sx)]
            if label >= 0:
                counts[label] = counts.get(label, 0) + 1
    return len(counts), max(counts.values(), default=0) / max(sum(counts.values()), 1)


def test_with_cat_max_ratio_a_window_shows_more_than_one_class_where_it_can():
    labels = np.full((60, 200), 2)
    labels[:, 100:] = 1
    labels[:10] = -1
    resizing = Resizing((60,), 400, fits=False)
    free = Augmentation(resizing=resizing)
    bound = dataclasses.replace(free, cat_max_ratio=0.75)
    one_sided = {free: 0, bound: 0}
    for rule in one_sided:
        for seed in range(60):
            transform = sample(
                np.random.default_rng(seed), (60, 200), FRAME, rule, labels=labels
            )
            assert transform.placement.window == FRAME
            classes, most = share_of_most(transform, labels)
            one_sided[rule] += classes == 1 or most >= 0.77  # whole pixels at the rim
            again = sample(np.random.default_rng(seed), (60, 200), FRAME, rule)
            if rule is free:  # labels change nothing that is not asked for
                assert again == transform
    # A window is mixed well at one place in six; ten more are tried.
    assert one_sided[free] > 40 and one_sided[bound] < 20


@pytest.mark.parametrize(
    ("columns", "most", "mixed"),
    [
        ((1, 2, 2, 2), 0.75, False),  # the share itself is too much, as theirs has it
        ((1, 2, 2, 2), 0.76, True),
        ((-1, -1, -1, 2), 0.9, False),  # void is no second class
        ((1, -1, 2, 2), 0.6, False),  # and no label: 2 has two thirds of them
    ],
)
def test_the_share_is_of_the_labelled_pixels_and_below_the_ratio(columns, most, mixed):
    """All windows of four columns show the same, so the first one decides."""
    labels = np.tile(columns, (60, 50))
    free = Augmentation(resizing=Resizing((60,), fits=False))
    bound = dataclasses.replace(free, cat_max_ratio=most)
    first, found = (
        sample(np.random.default_rng(1), (60, 200), FRAME, rule, labels=labels)
        for rule in (free, bound)
    )
    assert (found == first) == mixed


def test_where_no_window_is_mixed_the_last_one_tried_is_taken():
    labels = np.ones((60, 200), int)
    rule = Augmentation(cat_max_ratio=0.75, resizing=Resizing((60,), fits=False))
    transform = sample(np.random.default_rng(0), (60, 200), FRAME, rule, labels=labels)
    assert transform.placement.window == FRAME


def test_a_frame_cut_out_of_a_larger_image_has_all_its_pixels():
    """mmsegmentation's ADE20K: sides of 512 and at most 2048, on frames of 512."""
    rule = Augmentation(resizing=Resizing((512,), 2048, fits=False))
    for size, resized in (((480, 640), (512, 683)), ((300, 3000), (205, 2048))):
        transform = sample(np.random.default_rng(0), size, (512, 512), rule)
        assert transform.placement.resized == resized
        assert transform.placement.window == (min(512, resized[0]), 512)
    still = still_placement((480, 640), (512, 512), rule.resizing)
    assert still.resized == (384, 512)  # evaluation shows whole images
