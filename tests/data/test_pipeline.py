"""The training stream: exact resume, sharding, determinism."""

import dataclasses
import itertools

import cv2
import numpy as np
import pytest
from listed_sources import assert_same, listed, take

from agvm_jax.data.dataset import open_dataset


def test_a_batch_has_the_shapes_and_types_of_the_contract(data_config):
    source = open_dataset(data_config).train
    data_config.max_boxes = 7
    (batch,), _ = take(source, data_config, 1)
    found = {
        field.name: (value.shape, value.dtype)
        for field in dataclasses.fields(batch)
        if (value := getattr(batch, field.name)) is not None
    }
    assert found == {
        "image": ((4, 32, 48, 3), np.uint8),
        "image_size": ((4, 2), np.int32),
        "image_id": ((4,), np.int64),
        "boxes": ((4, 7, 4), np.float32),
        "classes": ((4, 7), np.int32),
        "valid": ((4, 7), bool),
        "crowd": ((4, 7), bool),
    }


def test_one_number_means_a_square(data_config):
    (batch,), _ = take(listed(3), data_config, 1, size=24)
    assert batch.image.shape == (4, 24, 24, 3)


def test_a_stream_that_starts_later_is_the_rest_of_the_whole_one(augmenting):
    """Across epochs too: 7 batches of 4 are four epochs of 7 images."""
    source = listed(7, boxes=3)
    whole, _ = take(source, augmenting, 7)
    for threads, start in itertools.product((0, 1, 3), (0, 1, 5)):
        augmenting.num_threads = threads
        rest, _ = take(source, augmenting, 7 - start, start_batch=start)
        assert_same(rest, whole[start:])


def test_reading_threads_do_not_start_others(data_config):
    cv2.setNumThreads(4)
    take(listed(1), data_config, 1)
    assert cv2.getNumThreads() == 1


def test_each_epoch_shows_every_image_once_in_an_order_of_its_own(data_config):
    batches, _ = take(listed(12), data_config, 9)
    epochs = np.concatenate([b.image_id for b in batches]).reshape(3, 12)
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(12), (3, 1)))
    assert len({tuple(e) for e in epochs.tolist()}) == 3


def test_another_seed_gives_another_order_and_other_augmentation(augmenting):
    source = listed(12)
    one, _ = take(source, augmenting, 3)
    other, _ = take(source, augmenting, 3, seed=1)
    ids = [np.concatenate([b.image_id for b in bs]).tolist() for bs in (one, other)]
    assert ids[0] != ids[1] and sorted(ids[0]) == sorted(ids[1])
    sizes = [
        dict(zip(i, np.concatenate([b.image_size for b in bs]).tolist(), strict=True))
        for i, bs in zip(ids, (one, other), strict=True)
    ]
    assert sizes[0] != sizes[1]


def test_augmentation_differs_between_epochs(augmenting):
    batches, _ = take(listed(4), augmenting, 6)
    seen = {}
    for batch in batches:
        for i, image in zip(batch.image_id.tolist(), batch.image, strict=True):
            seen.setdefault(i, set()).add(image.tobytes())
    assert [len(images) for images in seen.values()] == [6, 6, 6, 6]


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_the_very_batches_that_one_process_sees(count, augmenting):
    source = listed(10, boxes=3)
    whole, _ = take(source, augmenting, 5)
    shares = [
        take(source, augmenting, 5, process_index=i, process_count=count)[0]
        for i in range(count)
    ]
    for k, batch in enumerate(whole):
        for field in ("image", "boxes", "image_id", "image_size"):
            rows = np.zeros_like(getattr(batch, field))
            for i, share in enumerate(shares):
                rows.reshape(count, -1, *rows.shape[1:])[i] = getattr(share[k], field)
            np.testing.assert_array_equal(rows, getattr(batch, field))


def test_a_batch_may_be_larger_than_the_data_set(data_config):
    (batch,), _ = take(listed(3), data_config, 1, batch_size=8)
    assert np.bincount(batch.image_id).min() >= 2


def test_every_augmentation_at_once_is_the_same_for_all_threads_and_positions(
    data_config,
):
    data_config.update(
        scale_range=(0.5, 1.5),
        short_sides=(16, 24, 32),
        long_side=44,
        crop="iou",
        brightness=0.125,
        contrast=0.5,
        saturation=0.5,
        hue=0.05,
    )
    source = listed(7, boxes=3)
    plain = data_config.copy_and_resolve_references()
    plain.update(crop="none", hue=0.0, saturation=0.0, contrast=0.0, brightness=0.0)
    whole, _ = take(source, data_config, 7)
    data_config.num_threads = 3
    rest, _ = take(source, data_config, 5, start_batch=2)
    assert_same(rest, whole[2:])
    share, _ = take(source, data_config, 7, process_index=1, process_count=2)
    for one, other in zip(share, whole, strict=True):
        np.testing.assert_array_equal(one.image, other.image[len(one.image) :])
        np.testing.assert_array_equal(one.boxes, other.boxes[len(one.image) :])
    without, _ = take(source, plain, 7)
    ids = [[b.image_id.tolist() for b in batches] for batches in (whole, without)]
    assert ids[0] == ids[1]
    assert any((a.image != b.image).any() for a, b in zip(whole, without, strict=True))
