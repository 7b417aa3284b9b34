"""Parity in the forms of another platform: OP_FORMS=gpu pytest -m slow tests/parity"""

import os

import pytest

from models.ops.forms import use_forms


@pytest.fixture(scope="session", autouse=True)
def chosen_forms():
    """Programs are traced in these forms; all of them run on a CPU."""
    with use_forms(os.environ.get("OP_FORMS")):
        yield
