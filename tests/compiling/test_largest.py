"""The largest batch, where a device's memory is a line, and where it nearly is."""

import pytest

from agvm_jax.compiling.largest import MOST, TRIES, find_largest
from agvm_jax.compiling.programs import DoesNotFit


def on_line(images):
    return 10.0 + 3.0 * images


def test_a_line_is_met_and_confirmed_once():
    asked = []

    def compiled(images):
        asked.append(images)
        return on_line(images)

    found = find_largest(((2, on_line(2)), (8, on_line(8))), 100.0, compiled)
    assert (found.fixed, found.per_image) == (10.0, 3.0)
    assert found.fitted == found.confirmed == 30 and asked == [30]
    assert found.memory == 100.0 and found.refused == ()


def test_what_is_refused_or_too_much_is_tried_a_tenth_smaller():
    def compiled(images):
        if images > 28:
            raise DoesNotFit("Used 104G of 100G hbm")
        return 101.0 if images > 26 else on_line(images)

    found = find_largest(((2, on_line(2)), (8, on_line(8))), 100.0, compiled)
    assert found.refused == (30, 27) and found.confirmed == 24


def test_after_some_tries_nothing_is_confirmed():
    def compiled(images):
        raise DoesNotFit("no")

    found = find_largest(((2, on_line(2)), (8, on_line(8))), 100.0, compiled)
    assert found.confirmed == 0 and len(found.refused) == TRIES


def test_a_size_that_was_compiled_is_not_compiled_again():
    found = find_largest(((4, 20.0), (2, 12.0)), 20.0, None)
    assert found.fitted == found.confirmed == 4 and found.memory == 20.0


def test_no_more_is_tried_than_anybody_asks_for():
    found = find_largest(((2, 2.0), (4, 4.0)), 1e9, lambda images: float(images))
    assert found.fitted == 1_000_000_000 and found.confirmed == MOST


def test_memory_that_does_not_grow_says_nothing():
    with pytest.raises(ValueError, match="4 images take no more memory than 2"):
        find_largest(((2, 5.0), (4, 5.0)), 20.0, on_line)


@pytest.mark.parametrize(
    "words",
    [
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.5G of"
        " 15.75G hbm. Exceeded hbm capacity by 4.75G.",
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for"
        " HLO temporaries (20.5G) exceeds available HBM (15.75G).",
    ],
)
def test_a_refusal_tells_how_much_was_needed(words):
    error = DoesNotFit(words)
    assert (error.needed, error.room) == (20.5 * 2**30, 15.75 * 2**30)
    assert DoesNotFit("no").needed is None
