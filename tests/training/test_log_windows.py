"""The log: means over a window, written one window late, and nobody waits."""

import numpy as np

from agvm_jax.training.windows import Windows, means


class OnDevice:
    """A scalar on a device; to look at it before its time is to wait for it."""

    def __init__(self, value):
        self.value, self.waited = value, False

    def __array__(self, dtype=None, copy=None):
        self.waited = True
        return np.asarray(self.value, dtype)


def make(steps):
    return [
        {
            "loss": OnDevice(np.float32(step)),
            "finite": OnDevice(np.bool_(step != 3)),
            "skipped": OnDevice(np.int32(step == 3)),
            "mu/head": OnDevice(np.float32(step)),
        }
        for step in steps
    ]


def test_a_window_is_written_when_the_next_one_ends():
    written = []
    windows = Windows(lambda step, line: written.append((step, line)))
    scale = OnDevice(np.float32(7))
    steps = make(range(1, 10))
    for number, scalars in enumerate(steps, start=1):
        windows.add(scalars)
        if number % 4 == 0:
            windows.end(number, {"lr": 0.1, "noise_scale/all": scale})
        if number == 7:
            assert not written and not scale.waited
            assert not any(leaf.waited for s in steps for leaf in s.values())
    assert written == [
        (
            4,
            {
                "loss": (1 + 2 + 4) / 3,  # of the finite ones
                "mu/head": 4.0,  # the last
                "skipped_steps": 1.0,
                "lr": 0.1,
                "noise_scale/all": 7.0,
            },
        )
    ]
    assert not any(leaf.waited for s in steps[4:] for leaf in s.values())
    windows.write()
    assert [step for step, _ in written] == [4, 8]
    begun = windows.begun()
    assert begun == [{"loss": 9.0, "finite": 1.0, "skipped": 0.0, "mu/head": 9.0}]


def test_a_window_that_was_begun_by_a_former_sitting_ends_the_same():
    lines = []
    whole = Windows(lambda step, line: lines.append(line))
    steps = make(range(1, 5))
    for scalars in steps:
        whole.add(scalars)
    whole.end(4, {})
    whole.write()
    former = Windows(None)
    for scalars in steps[:3]:
        former.add(scalars)
    second = Windows(lambda step, line: lines.append(line), former.begun())
    second.add(steps[3])
    second.end(4, {})
    second.write()
    assert lines[0] == lines[1]


def test_a_window_without_a_finite_step_says_the_last_one():
    [line] = [means([{"loss": np.nan, "finite": False, "skipped": 1}] * 2)]
    assert np.isnan(line["loss"]) and line["skipped_steps"] == 2.0
