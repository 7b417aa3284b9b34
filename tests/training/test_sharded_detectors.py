"""RetinaNets with sharded state: a step is that of replicated state."""

import pytest
from sharded_detectors import MODELS, check_step


@pytest.mark.slow
@pytest.mark.parametrize("model", sorted({*MODELS} - {"mask_rcnn", "swin"}))
def test_a_step_is_that_of_replicated_state(model):
    """Both ways to phi, synced BatchNorm over both axes, and what is frozen."""
    check_step(model)
