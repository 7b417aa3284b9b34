"""A Swin transformer with sharded state: a step is that of replicated state."""

import pytest
from sharded_detectors import check_step


@pytest.mark.slow
def test_a_step_on_a_swin_is_that_of_replicated_state():
    check_step("swin")
