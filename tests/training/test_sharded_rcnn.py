"""Mask R-CNN with sharded state: a step is that of replicated state."""

import pytest
from sharded_detectors import check_step


@pytest.mark.slow
def test_a_step_of_mask_rcnn_is_that_of_replicated_state():
    check_step("mask_rcnn")
