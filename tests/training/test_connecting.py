"""Which devices of a run send to each other, and so have to be connected."""

from types import SimpleNamespace

import numpy as np
import pytest

from agvm_jax.training.connecting import groups_of


def fake_mesh(*shape, processes):
    size = int(np.prod(shape))
    devices = [
        SimpleNamespace(process_index=i * processes // size) for i in range(size)
    ]
    places = np.array(devices, object).reshape(shape)
    return SimpleNamespace(devices=places, size=size)


def test_all_together_along_the_axes_across_processes_and_in_halves():
    assert groups_of(fake_mesh(2, 4, processes=4)) == [
        ((0, 1, 2, 3, 4, 5, 6, 7),),
        ((0, 4), (1, 5), (2, 6), (3, 7)),  # along data
        ((0, 1, 2, 3), (4, 5, 6, 7)),  # along fsdp, and contiguous halves
        ((0, 2, 4, 6), (1, 3, 5, 7)),  # one of each process, and interleaved halves
    ]


@pytest.mark.parametrize("processes", [1, 2])
def test_one_device_sends_nothing_to_itself(processes):
    assert groups_of(fake_mesh(2, 1, processes=processes)) == [((0, 1),)]
    assert groups_of(fake_mesh(1, processes=1)) == []
