"""The feed: one batch ahead, and nobody can tell."""

import threading
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from agvm_jax.structures import Batch
from agvm_jax.training import mesh as mesh_lib
from agvm_jax.training.feed import Feed, StepAbandoned


def make_batch(number):
    return Batch(
        image=np.full((2, 1, 1, 3), number, np.uint8),
        image_size=np.ones((2, 2), np.int32),
        image_id=2 * number + np.arange(2),
        boxes=np.zeros((2, 1, 4), np.float32),
        classes=np.zeros((2, 1), np.int32),
        valid=np.ones((2, 1), bool),
        crowd=np.zeros((2, 1), bool),
    )


class Stream:
    """Numbered batches that count themselves; one of them cannot be had."""

    def __init__(self, broken=None):
        self.counters = {"read": 0}
        self.closed = False
        self.threads = set()
        self._broken = broken

    def __next__(self):
        number = self.counters["read"]
        self.threads.add(threading.get_ident())
        if number == self._broken:
            raise ValueError("this batch is broken")
        self.counters["read"] += 1
        return make_batch(number)

    def close(self):
        self.closed = True


@pytest.fixture
def make_feed():
    feeds = []

    def make(stream, passes=1, abandon=False):
        stop = SimpleNamespace(may_abandon_step=abandon)
        progress = SimpleNamespace(part=lambda *_: None)
        mesh = mesh_lib.data_mesh(jax.devices()[:2])
        feeds.append(Feed(mesh, stream, passes, progress, stop))
        return feeds[-1]

    yield make
    for feed in feeds:
        feed.close()


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_the_next_batch_is_fetched_while_this_one_is_in_use(make_feed):
    stream = Stream()
    feed = make_feed(stream)
    for taken in range(1, 4):
        batch = next(feed)
        assert np.asarray(batch.image)[0, 0, 0, 0] == taken - 1
        wait_until(lambda taken=taken: stream.counters["read"] == taken + 1)
        time.sleep(0.02)
        assert stream.counters["read"] == taken + 1  # one ahead and no more
    assert threading.get_ident() not in stream.threads and len(stream.threads) == 1


def test_batches_are_on_the_devices_shared_out_over_them(make_feed):
    batch = next(make_feed(Stream()))
    shards = batch.image.addressable_shards
    assert [shard.data.shape for shard in shards] == [(1, 1, 1, 3)] * 2
    assert batch.image_id.dtype == np.int32


def test_counters_and_image_ids_are_those_of_batches_handed_out(make_feed):
    stream = Stream()
    feed = make_feed(stream)
    assert feed.counters == {"read": 0}
    for taken in (1, 2, 3):
        next(feed)
        wait_until(lambda taken=taken: stream.counters["read"] == taken + 1)
        assert feed.counters == {"read": taken}
    assert feed.take_image_ids().tolist() == [0, 1, 2, 3, 4, 5]
    next(feed)
    assert feed.take_image_ids().tolist() == [6, 7]


def test_an_error_of_the_data_is_raised_when_its_batch_is_asked_for(make_feed):
    feed = make_feed(Stream(broken=2))
    next(feed)
    next(feed)
    with pytest.raises(ValueError, match="this batch is broken"):
        next(feed)


def test_an_error_of_a_batch_that_nobody_asks_for_is_none(make_feed):
    stream = Stream(broken=1)
    feed = make_feed(stream)
    next(feed)
    feed.close()
    assert stream.closed


def test_a_step_may_be_left_after_its_first_batch_but_not_before(make_feed):
    feed = make_feed(Stream(), passes=4, abandon=True)
    next(feed)
    with pytest.raises(StepAbandoned):
        next(feed)
    feed.take_image_ids()
    next(feed)


def test_closing_ends_the_thread_and_closes_the_stream(make_feed):
    stream = Stream()
    feed = make_feed(stream)
    next(feed)
    feed.close()
    assert stream.closed
    read = stream.counters["read"]
    time.sleep(0.02)
    assert stream.counters["read"] == read
    assert not [t for t in threading.enumerate() if t.ident in stream.threads]
