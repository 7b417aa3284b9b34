"""Segments and the label maps made from them."""

import numpy as np
import pytest
from placements import random_placement

from agvm_jax.data.annotations.errors import DataError, UnreadableImage
from agvm_jax.data.annotations.segments import (
    NO_SEGMENTS,
    Segments,
    load_segments,
    segments_from_labels,
    store_segments,
)
from agvm_jax.data.dataset import open_dataset
from agvm_jax.data.pipeline import eval_batches, train_batches


def random_segments(rng, count, size=(20, 30)):
    return Segments(
        numbers=rng.integers(0, count + 1, size).astype(np.uint16),
        classes=rng.integers(0, 9, count).astype(np.int32),
        crowd=rng.random(count) < 0.2,
    )


@pytest.mark.parametrize("count", [1, 200, 255, 256, 300])
def test_stored_segments_come_back(count):
    segments = random_segments(np.random.default_rng(count), count)
    back = load_segments(store_segments(segments))
    np.testing.assert_array_equal(back.numbers, segments.numbers)
    np.testing.assert_array_equal(back.classes, segments.classes)
    np.testing.assert_array_equal(back.crowd, segments.crowd)


def test_a_record_without_segments_is_unreadable_as_such():
    with pytest.raises(UnreadableImage, match="no readable segments"):
        load_segments(NO_SEGMENTS)


def test_labels_are_the_class_of_each_pixel_by_a_slow_loop():
    rng = np.random.default_rng(0)
    segments = random_segments(rng, 12)
    everything = segments.labels(things=4, merged=False)
    merged = segments.labels(things=4, merged=True)
    for y in range(20):
        for x in range(30):
            number = segments.numbers[y, x]
            k = -1 if number == 0 else segments.classes[number - 1]
            assert everything[y, x] == k
            assert merged[y, x] == (k if k < 0 else 0 if k < 4 else k - 3)
    assert everything.dtype == merged.dtype == np.int32


@pytest.mark.parametrize("void", [True, False])
def test_segments_made_from_labels_give_the_labels_back(void):
    rng = np.random.default_rng(1)
    labels = rng.choice([-1, 2, 5, 9] if void else [2, 5, 9], (15, 17))
    segments = segments_from_labels(labels)
    assert segments.classes.tolist() == [2, 5, 9]
    np.testing.assert_array_equal(segments.labels(0, merged=False), labels)


def test_a_picture_that_is_all_void_has_no_segment():
    segments = segments_from_labels(np.full((3, 4), -1))
    assert len(segments.classes) == 0 and not segments.numbers.any()
    assert (load_segments(store_segments(segments)).labels(2, merged=True) == -1).all()


@pytest.mark.parametrize("seed", range(10))
def test_labels_go_where_a_slow_walk_over_the_cells_says(seed):
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(20, 90, 2).tolist())
    labels = rng.integers(-1, 7, size).astype(np.int32)
    place = random_placement(rng, size, (48, 64), 0.5, (0.5, 2.0))
    ours = place.labels(labels, (48, 64), stride=4)
    for i in range(12):
        for j in range(16):
            y, x = 4 * i + 2, 4 * j + 2
            if y >= place.window[0] or x >= place.window[1]:
                assert ours[i, j] == -1
                continue
            x = place.window[1] - x if place.flip else x
            y = (y + place.corner[0]) * size[0] / place.resized[0]
            x = (x + place.corner[1]) * size[1] / place.resized[1]
            row, column = min(int(y), size[0] - 1), min(int(x), size[1] - 1)
            assert ours[i, j] == labels[row, column]


@pytest.mark.parametrize("seed", range(6))
def test_labels_and_pixels_go_the_same_way(seed):
    """A picture painted in the colours of its labels still shows them afterwards."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:80, :100]
    labels = ((x > rng.integers(30, 70)) * 2 + (y > rng.integers(25, 55))).astype(
        np.int32
    )
    picture = np.repeat((labels * 60).astype(np.uint8)[..., None], 3, axis=2)
    place = random_placement(rng, (80, 100), (64, 64), 0.5, (0.6, 1.8))
    ours = place.labels(labels, (64, 64), stride=1)
    seen = place.image(picture, (64, 64))[..., 0]
    inside = ours >= 0
    assert inside.sum() == place.window[0] * place.window[1]
    assert (np.abs(seen.astype(int) - ours * 60) < 30)[inside].mean() > 0.97


@pytest.fixture
def stuff_config(data_config):
    data_config.shapes.stuff = True
    data_config.semantic = "stuff"
    return data_config


@pytest.mark.parametrize("semantic", ["stuff", "all"])
def test_a_batch_carries_the_labels_that_the_config_asks_for(semantic, stuff_config):
    stuff_config.semantic = semantic
    dataset = open_dataset(stuff_config)
    assert dataset.stuff_names == ("clouds", "waves", "tiles")
    names = dataset.label_names(semantic)
    (batch, *_) = eval_batches(
        dataset.val, image_size=(64, 64), batch_size=4, data_config=stuff_config
    )
    assert batch.semantic.shape == (4, 16, 16) and batch.semantic.dtype == np.int32
    assert (batch.semantic[:, :, 12:] == -1).all()  # pictures are 64 x 48
    assert batch.semantic[:, :, :12].min() == 0
    assert batch.semantic.max() == len(names) - 1
    for row in range(4):  # a label under each box's centre that fits the box
        for box, k in zip(
            batch.boxes[row][batch.valid[row]],
            batch.classes[row][batch.valid[row]],
            strict=True,
        ):
            x1, y1, x2, y2 = (int(v) // 4 for v in box)
            inside = batch.semantic[row, y1 : y2 + 1, x1 : x2 + 1]
            assert (0 if semantic == "stuff" else k) in inside


def test_training_labels_come_with_padding_and_resume_exactly(stuff_config):
    stuff_config.scale_range = (0.5, 1.5)
    source = open_dataset(stuff_config).train
    options = dict(image_size=64, batch_size=4, seed=0, data_config=stuff_config)
    whole = train_batches(source, **options)
    next(whole)
    rest = train_batches(source, start_batch=1, **options)
    np.testing.assert_array_equal(next(whole).semantic, next(rest).semantic)
    for stream in (whole, rest):
        stream.close()


def test_padding_rows_have_nothing_to_learn(stuff_config):
    dataset = open_dataset(stuff_config)
    *_, last = eval_batches(
        dataset.val, image_size=64, batch_size=4, data_config=stuff_config
    )
    assert (last.semantic[last.image_id < 0] == -1).all()


def test_labels_that_are_asked_for_must_be_there(data_config):
    data_config.semantic = "all"
    with pytest.raises(DataError, match="semantic is 'all'.*shapes.stuff to True"):
        open_dataset(data_config)


def test_the_stride_must_divide_the_frame(stuff_config):
    dataset = open_dataset(stuff_config)
    with pytest.raises(ValueError, match="multiple of config.data.semantic_stride"):
        eval_batches(
            dataset.val, image_size=(64, 66), batch_size=4, data_config=stuff_config
        )
