"""The streams: exact resume, sharding, determinism, counting, and padding."""

import dataclasses
import itertools
import re

import numpy as np
import pytest
from coco_files import noise_png

from agvm_jax.data.dataset import open_dataset
from agvm_jax.data.errors import DataError
from agvm_jax.data.pipeline import eval_batches, train_batches


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


@pytest.fixture
def augmenting(data_config):
    data_config.scale_range = (0.5, 1.5)
    data_config.max_boxes = 6
    return data_config


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


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("start", [0, 1, 5])
def test_a_stream_that_starts_later_is_the_rest_of_the_whole_one(
    start, threads, augmenting
):
    """Across epochs too: 7 batches of 4 are four epochs of 7 images."""
    source = listed(7, boxes=3)
    whole, _ = take(source, augmenting, 7)
    augmenting.num_threads = threads
    rest, _ = take(source, augmenting, 7 - start, start_batch=start)
    assert_same(rest, whole[start:])


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
                rows[i::count] = getattr(share[k], field)
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
        np.testing.assert_array_equal(one.image, other.image[1::2])
        np.testing.assert_array_equal(one.boxes, other.boxes[1::2])
    without, _ = take(source, plain, 7)
    ids = [[b.image_id.tolist() for b in batches] for batches in (whole, without)]
    assert ids[0] == ids[1]
    assert any((a.image != b.image).any() for a, b in zip(whole, without, strict=True))


def test_padding_objects_are_zero_and_not_valid(data_config):
    source = Listed([example(0, boxes=0), example(1, boxes=3)])
    data_config.max_boxes = 5
    (batch,), _ = take(source, data_config, 1)
    for row, image_id in enumerate(batch.image_id):
        boxes = 3 * int(image_id)
        assert batch.valid[row].tolist() == [True] * boxes + [False] * (5 - boxes)
        assert (batch.boxes[row, boxes:] == 0).all()
        assert (batch.classes[row, boxes:] == 0).all()


def test_objects_over_the_cap_are_dropped_at_random_and_counted(data_config):
    data_config.max_boxes = 4
    batches, counters = take(Listed([example(0, boxes=10)]), data_config, 10)
    assert counters["boxes_over_cap"] == 10 * 4 * 6
    kept = np.concatenate([b.classes for b in batches])
    assert all(b.valid.all() for b in batches)
    assert (np.diff(kept, axis=1) > 0).all()  # the file's order stays
    assert np.bincount(kept.ravel(), minlength=10).min() >= 5  # nobody always loses


def test_counters_do_not_depend_on_how_far_threads_run_ahead(data_config):
    data_config.max_boxes = 1
    source = listed(6, boxes=3)
    for threads, prefetch in ((0, 0), (3, 10)):
        data_config.num_threads, data_config.prefetch = threads, prefetch
        assert take(source, data_config, 2)[1]["boxes_over_cap"] == 2 * 4 * 2


def test_an_unreadable_image_is_replaced_by_the_next_and_counted_once(data_config):
    source = listed(6)
    for index in (2, 3):
        source.examples[index]["image"] = b"broken"
    batches, counters = take(source, data_config, 9)
    ids = np.concatenate([b.image_id for b in batches])
    assert np.bincount(ids, minlength=6).tolist() == [6, 6, 0, 0, 18, 6]
    assert counters["unreadable_images"] == 2
    again, _ = take(source, data_config, 4, start_batch=5)
    assert_same(again, batches[5:])


def test_an_image_of_unknown_size_is_unreadable(data_config):
    source = listed(4)
    source.examples[1]["height"] = 0
    assert take(source, data_config, 2)[1]["unreadable_images"] == 1


@pytest.mark.parametrize("threads", [0, 2])
def test_too_many_unreadable_images_stop_with_the_first_ten(threads, data_config):
    data_config.max_unreadable, data_config.num_threads = 11, threads
    source = listed(40)
    for index in range(20, 40):
        source.examples[index]["image"] = b"broken"
    with pytest.raises(DataError) as caught:
        take(source, data_config, 40)
    message = str(caught.value)
    assert "data.max_unreadable = 11" in message
    assert message.count(".png' cannot be decoded") == 10


@pytest.mark.parametrize("threads", [0, 2])
def test_a_set_without_one_readable_image_is_an_error_not_a_loop(threads, data_config):
    data_config.num_threads = threads
    source = Listed([example(i, image=b"broken") for i in range(3)])
    with pytest.raises(DataError, match="None of the 3 images can be read: '"):
        take(source, data_config, 1)


def test_evaluation_passes_once_in_order_and_pads_the_last_batch(data_config):
    batches = eval_batches(
        listed(6), image_size=(32, 48), batch_size=4, data_config=data_config
    )
    assert len(batches) == 2
    for _ in range(2):  # each iteration is a new pass
        ids = [b.image_id.tolist() for b in batches]
        assert ids == [[0, 1, 2, 3], [4, 5, -1, -1]]
    last = list(batches)[-1]
    assert (last.image[2:] == 0).all() and not last.valid[2:].any()
    assert last.image_size[2:].min() > 0  # nothing divides by zero


def test_evaluation_does_not_augment(augmenting):
    augmenting.flip = 1.0
    batches = eval_batches(
        listed(4), image_size=(40, 60), batch_size=4, data_config=augmenting
    )
    (batch,) = batches
    np.testing.assert_array_equal(batch.image_size, [[40, 60]] * 4)
    for row, image_id in enumerate(batch.image_id):
        box = example(int(image_id))["boxes"][0] * 2
        np.testing.assert_allclose(batch.boxes[row, 0], box, rtol=1e-6)


def test_processes_share_an_evaluation_without_loss_or_repetition(data_config):
    ids, lengths = [], set()
    for index in range(2):
        batches = eval_batches(
            listed(9),
            image_size=32,
            batch_size=4,
            data_config=data_config,
            process_index=index,
            process_count=2,
        )
        lengths.add(len(batches))
        got = [b.image_id for b in batches]
        assert [len(g) for g in got] == [2, 2, 2]
        ids += np.concatenate(got).tolist()
    assert lengths == {3}
    assert sorted(i for i in ids if i >= 0) == list(range(9))


def test_an_unreadable_evaluation_image_leaves_a_padding_row_and_is_counted(
    data_config,
):
    source = listed(4)
    source.examples[1]["image"] = b""
    batches = eval_batches(source, image_size=32, batch_size=2, data_config=data_config)
    ids = [b.image_id.tolist() for b in batches]
    assert ids == [[0, -1], [2, 3]]
    assert batches.counters["unreadable_images"] == 1
    data_config.max_unreadable = 0
    with pytest.raises(DataError, match="'1.png' is an empty file"):
        list(eval_batches(source, image_size=32, batch_size=2, data_config=data_config))


def test_an_evaluation_that_stops_early_leaves_no_thread_behind(data_config):
    batches = eval_batches(
        listed(40), image_size=32, batch_size=2, data_config=data_config
    )
    passing = iter(batches)
    next(passing)
    passing.close()
    assert [b.image_id[0] for b in itertools.islice(batches, 2)] == [0, 2]


def test_closing_twice_is_fine_and_a_closed_stream_gives_nothing(data_config):
    batches = train_batches(
        listed(4), image_size=32, batch_size=2, seed=0, data_config=data_config
    )
    next(batches)
    batches.close()
    batches.close()
    with pytest.raises(ValueError, match="closed"):
        next(batches)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_boxes": 0}, "data.max_boxes is 0"),
        ({"flip": 1.5}, "data.flip is 1.5"),
        ({"scale_range": (0.0, 1.0)}, "data.scale_range"),
        ({"scale_range": (2.0, 1.0)}, "data.scale_range"),
        ({"short_sides": (0,)}, "data.short_sides"),
        ({"long_side": -1}, "data.long_side is -1"),
        ({"orientation_group": -4}, "data.orientation_group is -4"),
        ({"crop": "center"}, "data.crop is center; it must be none, size or iou"),
        ({"crop_range": (0.0, 1.0)}, "data.crop_range"),
        ({"crop_range": (0.5, 1.1)}, "data.crop_range"),
        ({"crop_probability": 2.0}, "data.crop_probability"),
        ({"brightness": -0.1}, "data.brightness"),
        ({"contrast": 1.5}, "data.contrast"),
        ({"saturation": 1.5}, "data.saturation"),
        ({"hue": 0.6}, "data.hue is 0.6"),
        ({"num_threads": -1}, "data.num_threads"),
        ({"prefetch": -1}, "data.prefetch"),
        ({"max_unreadable": -1}, "data.max_unreadable"),
    ],
)
def test_a_key_that_cannot_be_used_is_named(changes, words, data_config):
    data_config.update(changes)
    with pytest.raises(ValueError, match=re.escape(words)):
        take(listed(3), data_config, 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 5, "process_count": 2}, "5 images cannot be shared by 2"),
        ({"batch_size": 0}, "batch of 0"),
        ({"process_index": 2, "process_count": 2}, "process_index 2 of 2"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"start_batch": -1}, "start_batch is -1"),
    ],
)
def test_a_stream_that_cannot_be_is_refused(options, words, data_config):
    with pytest.raises(ValueError, match=words):
        take(listed(4), data_config, 1, **options)


def test_threads_are_as_many_as_asked_for_or_one_a_core_up_to_sixteen(monkeypatch):
    from agvm_jax.data import settings

    assert settings.reading_threads(5) == 5
    for cores, threads in ((1, 1), (3, 3), (200, 16)):
        for name in ("sched_getaffinity", "cpu_count"):
            answer = range(cores) if name == "sched_getaffinity" else cores
            monkeypatch.setattr(
                settings.os, name, lambda *_, answer=answer: answer, raising=False
            )
        assert settings.reading_threads(0) == threads
        monkeypatch.delattr(settings.os, "sched_getaffinity")
        assert settings.reading_threads(0) == threads
        monkeypatch.undo()


def test_an_empty_source_is_refused(data_config):
    with pytest.raises(DataError, match="no images"):
        take(Listed([]), data_config, 1)


def test_the_buffer_is_bounded_in_bytes_not_only_in_batches(data_config):
    from agvm_jax.data.pipeline import _read_options

    data_config.prefetch = 4
    small = _read_options(data_config, rows=16, frame=(128, 128))
    assert small.prefetch_buffer_size == 64
    large = _read_options(data_config, rows=10240, frame=(800, 1344))
    assert large.prefetch_buffer_size * 800 * 1344 * 3 <= 2**30
