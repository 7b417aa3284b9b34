"""The examples in the docstrings of the detectors' functions do what they say."""

import doctest

import pytest

from models.ops import (
    anchors,
    bilinear,
    boxes,
    forms,
    images,
    losses,
    matching,
    nms,
    repetition,
    roi_align,
    sampling,
    topk,
    windows,
)


@pytest.mark.parametrize(
    "module",
    [
        anchors,
        bilinear,
        boxes,
        forms,
        images,
        losses,
        matching,
        nms,
        repetition,
        roi_align,
        sampling,
        topk,
        windows,
    ],
    ids=lambda module: module.__name__,
)
def test_the_examples_run(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
