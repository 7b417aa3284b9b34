import numpy as np
import pytest
from small_weights import make_detector

from models.weights.load import load_initial_weights


@pytest.fixture
def load(tmp_path):
    """Write tensors to a file and load it for a detector of these shapes."""

    def load(tensors, what, shapes, name="weights.npz"):
        np.savez(tmp_path / name, **tensors)
        return load_initial_weights(str(tmp_path / name), what, tmp_path, *shapes)

    return load


@pytest.fixture(scope="module")
def resnet():
    return make_detector()
