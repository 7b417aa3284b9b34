"""Batches of one orientation: whose turn it is, and that nothing is lost by it."""

import collections
import itertools

import numpy as np
import pytest
from coco_files import noise_png
from listed_sources import assert_same

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.dataset import open_dataset
from agvm_jax.data.order import (
    TrainOrder,
    evaluation_order,
    split_by_orientation,
)
from agvm_jax.data.pipeline import eval_batches, train_batches

LANDSCAPE, PORTRAIT = (32, 48), (48, 32)


class Sized:
    """A source of images of given sizes; image ids count from 0."""

    def __init__(self, sizes, broken=()):
        self.sizes = np.array(sizes)
        self._broken = broken

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        height, width = self.sizes[index].tolist()
        broken = index in self._broken
        return {
            "image": b"broken" if broken else noise_png(height, width, seed=index),
            "file_name": f"{index}.png",
            "image_id": index,
            "height": height,
            "width": width,
            "boxes": np.array([[1, 1, width - 1, height - 1]], np.float32),
            "classes": np.zeros(1, np.int32),
            "turn": 1,
            "crowd": np.zeros(1, bool),
            "area": np.ones(1, np.float32),
        }


def mixed(landscape, portrait, **options):
    """Landscape and portrait images in turns, as far as they go."""
    kinds = [(20, 30)] * landscape + [(30, 20)] * portrait
    order = np.random.default_rng(0).permutation(len(kinds))
    return Sized([kinds[i] for i in order], **options)


@pytest.fixture
def grouped(data_config):
    data_config.orientation_group = 8
    data_config.scale_range = (0.5, 1.5)
    return data_config


def take(source, config, count, *, batch_size=4, seed=0, **options):
    batches = train_batches(
        source,
        image_size=(32, 48),
        batch_size=batch_size,
        seed=seed,
        data_config=config,
        **options,
    )
    try:
        return list(itertools.islice(batches, count))
    finally:
        batches.close()


def test_images_are_split_by_their_size_and_get_the_frame_that_fits():
    source = Sized([(20, 30), (30, 20), (25, 25), (0, 0), (31, 30)])
    for frame in (LANDSCAPE, PORTRAIT):
        (wide, lying), (high, standing) = split_by_orientation(source, frame)
        assert lying == LANDSCAPE and standing == PORTRAIT
        assert [wide[i]["image_id"] for i in range(len(wide))] == [0, 2, 3]
        assert [high[i]["image_id"] for i in range(len(high))] == [1, 4]


@pytest.mark.parametrize("counts", [(9, 3), (3, 9), (100, 1), (7, 0), (0, 5)])
def test_every_image_comes_as_often_as_every_other(counts):
    """Up to the groups that are shuffled among each other."""
    order, group = TrainOrder(counts, 2, seed=3), 2
    epochs = 64 * group * 3  # whole blocks of groups show whole epochs
    seen = collections.Counter(order[p] for p in range(epochs * sum(counts)))
    assert set(seen) == {(k, i) for k in (0, 1) for i in range(counts[k])}
    assert max(seen.values()) - min(seen.values()) <= 1
    assert sum(seen.values()) / sum(counts) == epochs


def test_a_group_is_of_one_kind_and_each_kind_is_shuffled_anew_each_epoch():
    counts, group = (12, 4), 4
    order = TrainOrder(counts, group, seed=0)
    places = [order[p] for p in range(64 * group * 4)]
    for start in range(0, len(places), group):
        assert len({kind for kind, _ in places[start : start + group]}) == 1
    for kind, count in enumerate(counts):
        indices = [i for k, i in places if k == kind]
        epochs = [
            tuple(indices[start : start + count])
            for start in range(0, len(indices) - count + 1, count)
        ]
        assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
        assert len(set(epochs)) > 20


def test_portrait_groups_are_not_evenly_spaced():
    """They would all fall into the same one of two interleaved halves."""
    order = TrainOrder((300, 100), 1, seed=0)
    portrait = [g for g in range(640) if order[g][0] == 1]
    assert len(portrait) == 160
    odd = sum(g % 2 for g in portrait)
    assert 55 < odd < 105
    assert len(set(np.diff(portrait))) > 5


def test_another_seed_gives_another_order():
    one, other = (
        [TrainOrder((30, 10), 2, seed)[p] for p in range(200)] for seed in (0, 1)
    )
    assert one != other


def test_a_position_alone_tells_what_comes_there():
    """Asked for backwards, by a new object, far away: the same answer."""
    order = TrainOrder((9, 4), 3, seed=1)
    ahead = [order[p] for p in range(3000)]
    fresh = TrainOrder((9, 4), 3, seed=1)
    assert [fresh[p] for p in reversed(range(3000))][::-1] == ahead
    assert TrainOrder((9, 4), 3, seed=1)[10**9] == order[10**9]


def test_every_batch_has_one_of_two_shapes_and_its_images_fit(grouped):
    grouped.scale_range = (1.0, 1.0)
    shapes = collections.Counter()
    for batch in take(mixed(9, 5), grouped, 30):
        frame = batch.image.shape[1:3]
        shapes[frame] += 1
        # Images of 20 x 30 and 30 x 20 fill the frame that is turned as they are.
        np.testing.assert_array_equal(batch.image_size, [frame] * 4)
        assert (batch.boxes[:, 0, 2:] <= frame[::-1]).all()
    assert set(shapes) == {LANDSCAPE, PORTRAIT}


def test_with_short_sides_the_shorter_side_is_the_same_in_both_frames(grouped):
    grouped.scale_range, grouped.short_sides = (1.0, 1.0), (24,)
    for batch in take(mixed(6, 6), grouped, 10):
        np.testing.assert_array_equal(batch.image_size.min(axis=1), [24] * 4)
        np.testing.assert_array_equal(batch.image_size.max(axis=1), [36] * 4)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("start", [1, 7])
def test_a_stream_that_starts_later_is_the_rest_of_the_whole_one(
    start, threads, grouped
):
    source = mixed(7, 5)
    whole = take(source, grouped, 16)
    grouped.num_threads = threads
    assert_same(take(source, grouped, 16 - start, start_batch=start), whole[start:])


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_the_very_batches_that_one_process_sees(count, grouped):
    source = mixed(7, 5)
    whole = take(source, grouped, 8)
    shares = [
        take(source, grouped, 8, process_index=i, process_count=count)
        for i in range(count)
    ]
    for k, batch in enumerate(whole):
        for field in ("image", "boxes", "image_id", "image_size"):
            rows = np.zeros_like(getattr(batch, field))
            for i, share in enumerate(shares):
                rows.reshape(count, -1, *rows.shape[1:])[i] = getattr(share[k], field)
            np.testing.assert_array_equal(rows, getattr(batch, field))


def test_smaller_batches_show_the_same_images_in_the_same_order(grouped):
    """So another number of devices, or another micro-batch, changes no step."""
    source = mixed(7, 5)
    ids = [
        np.concatenate(
            [b.image_id for b in take(source, grouped, 64 // size, batch_size=size)]
        ).tolist()
        for size in (8, 4, 2)
    ]
    assert ids[0] == ids[1] == ids[2]


def test_a_batch_that_would_need_two_frames_is_refused(grouped):
    with pytest.raises(DataError, match="orientation_group is 8, but 3 images"):
        take(mixed(5, 5), grouped, 1, batch_size=3)


def test_an_unreadable_image_is_replaced_by_one_of_its_own_orientation(grouped):
    source = mixed(6, 6)
    broken = [int(np.flatnonzero(source.sizes[:, k] == 30)[0]) for k in (0, 1)]
    source = mixed(6, 6, broken=broken)
    seen = set()
    for batch in take(source, grouped, 24):
        sizes = source.sizes[batch.image_id]
        assert (np.argmax(sizes, axis=1) == np.argmax(batch.image.shape[1:3])).all()
        seen.update(batch.image_id.tolist())
    assert seen == set(range(12)) - set(broken)


@pytest.mark.parametrize("sizes", [[(20, 30)] * 5, [(30, 20)] * 5])
def test_a_set_of_one_orientation_only_is_fine(sizes, grouped):
    batches = take(Sized(sizes), grouped, 6)
    assert len({b.image.shape for b in batches}) == 1
    assert {i for b in batches for i in b.image_id} == set(range(5))


def test_evaluation_shows_each_image_once_kind_by_kind(grouped):
    source = mixed(7, 3)
    ids, shapes = [], []
    batches = eval_batches(
        source, image_size=(32, 48), batch_size=4, data_config=grouped
    )
    assert len(batches) == 3
    for batch in batches:
        shapes.append(batch.image.shape[1:3])
        real = batch.image_id[batch.image_id >= 0]
        ids += real.tolist()
        assert (batch.image_size[: len(real)] == shapes[-1]).all()
    assert sorted(ids) == list(range(10))
    assert shapes == [LANDSCAPE, LANDSCAPE, PORTRAIT]


def test_processes_share_an_evaluation_with_equal_shapes_at_equal_times(grouped):
    passes = [
        list(
            eval_batches(
                mixed(7, 3),
                image_size=(32, 48),
                batch_size=4,
                data_config=grouped,
                process_index=index,
                process_count=2,
            )
        )
        for index in range(2)
    ]
    ids = []
    for one, other in zip(*passes, strict=True):
        assert one.image.shape == other.image.shape
        ids += [*one.image_id, *other.image_id]
    assert sorted(i for i in ids if i >= 0) == list(range(10))


def test_the_order_of_an_evaluation_fills_each_kind_up():
    assert evaluation_order([3, 0, 1], 2) == [
        (0, 0), (0, 1), (0, 2), (0, 3), (2, 0), (2, 1),
    ]  # fmt: skip


def test_some_of_an_evaluation_are_spread_evenly_over_both_kinds():
    assert evaluation_order([6, 2], 2, some=4) == [
        (0, 0), (0, 2), (0, 4), (0, 6), (1, 0), (1, 2),
    ]  # fmt: skip
    assert evaluation_order([2, 1], 1, some=5) == evaluation_order([2, 1], 1)


def test_a_prepared_set_knows_its_sizes_without_reading_records(write_coco, two_images):
    source = open_dataset(write_coco(two_images)).train
    np.testing.assert_array_equal(source.sizes, [(20, 30), (16, 12)])
    sizes = [(source[i]["height"], source[i]["width"]) for i in range(2)]
    np.testing.assert_array_equal(source.sizes, sizes)
