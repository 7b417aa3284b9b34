"""The pass over an evaluation set: each image once, and the streams' ends."""

import itertools

import numpy as np
import pytest
from listed_sources import example, listed

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.pipeline import eval_batches, train_batches


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


def test_some_images_lie_spread_over_the_split_and_over_the_processes(data_config):
    """And each process gets as many batches, or one would wait for ever, on a pod."""
    got = [
        [
            batch.image_id.tolist()
            for batch in eval_batches(
                listed(20),
                image_size=32,
                batch_size=4,
                data_config=data_config,
                process_index=index,
                process_count=2,
                some=5,
            )
        ]
        for index in range(2)
    ]
    assert got == [[[0, 8], [16, -1]], [[4, 12], [-1, -1]]]


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


def test_counters_are_those_of_one_pass(data_config):
    data_config.max_boxes = 1
    source = listed(4, boxes=3)
    source.examples[1]["image"] = b""
    batches = eval_batches(source, image_size=32, batch_size=2, data_config=data_config)
    for _ in range(2):
        assert len(list(batches)) == 2
        assert batches.counters["boxes_over_cap"] == 3 * 2
        assert batches.counters["unreadable_images"] == 1


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
