"""Keys and streams that cannot be used are named; threads and buffer are sensible."""

import re

import pytest
from listed_sources import Listed, listed, take

from agvm_jax.data import pipeline
from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.pipeline import _read_options


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
        ({"crop": "center"}, "data.crop is center; it must be none, size, iou or"),
        ({"crop": "frame"}, "data.crop is frame; it needs short_sides or long_side"),
        ({"cat_max_ratio": 0.0}, "cat_max_ratio is 0.0; it must lie above 0"),
        ({"cat_max_ratio": 0.5}, "set data.semantic to all or stuff"),
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
    assert pipeline.reading_threads(5) == 5
    for cores, threads in ((1, 1), (3, 3), (200, 16)):
        for name in ("sched_getaffinity", "cpu_count"):
            answer = range(cores) if name == "sched_getaffinity" else cores
            monkeypatch.setattr(
                pipeline.os, name, lambda *_, answer=answer: answer, raising=False
            )
        assert pipeline.reading_threads(0) == threads
        monkeypatch.delattr(pipeline.os, "sched_getaffinity")
        assert pipeline.reading_threads(0) == threads
        monkeypatch.undo()


def test_an_empty_source_is_refused(data_config):
    with pytest.raises(DataError, match="no images"):
        take(Listed([]), data_config, 1)


def test_the_buffer_is_bounded_in_bytes_not_only_in_batches(data_config):
    data_config.prefetch = 4
    small = _read_options(data_config, rows=16, frame=(128, 128))
    assert small.prefetch_buffer_size == 64
    large = _read_options(data_config, rows=10240, frame=(800, 1344))
    assert large.prefetch_buffer_size * 800 * 1344 * 3 <= 2**30
