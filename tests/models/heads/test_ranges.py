"""Settings out of range are named as in a config."""

import doctest

import pytest

from models.heads import ranges
from models.heads.ranges import check_ranges


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shares": {"iou": -0.1}}, r"model.toy.iou is -0.1: .* in \[0, 1\]"),
        ({"shares": {"iou": float("nan")}}, "model.toy.iou is nan"),
        ({"counts": {"samples": 0}}, "model.toy.samples is 0: .* at least 1"),
        ({"pairs": {"top_k": (3,)}}, r"model.toy.top_k is \(3,\): two numbers"),
        ({"pairs": {"top_k": (3, 0)}}, r"model.toy.top_k is \(3, 0\): two numbers"),
    ],
)
def test_what_is_out_of_range_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        check_ranges("model.toy", **settings)


def test_the_ends_of_a_range_belong_to_it():
    check_ranges(
        "model.toy", shares={"a": 0, "b": 1.0}, counts={"c": 1}, pairs={"d": (1, 1)}
    )


def test_examples():
    assert doctest.testmod(ranges).failed == 0
