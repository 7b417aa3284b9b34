"""Two processes of two devices compute what one process of four does, in every mode.

One of the two comes late, by more than Gloo waits for its first words.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from toy_of_four import CASES, run_all
from two_processes import ends_of, start_both

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LATE = 32  # seconds; Gloo gives up after 30


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What each of the two processes tells, and what one of four devices does."""
    folder = tmp_path_factory.mktemp("alike")
    both = start_both(
        Path(__file__).parent / "toy_of_four.py",
        *(folder, str(LATE)),
        JAX_NUM_CPU_DEVICES="2",
    )
    one = folder / "one"
    one.mkdir()
    alone = run_all(one)
    ends = ends_of(both)
    assert [code for code, _, _ in ends] == [0, 0], ends
    return alone, [json.loads(out.splitlines()[-1]) for _, out, _ in ends]


@pytest.mark.parametrize("case", ["_".join(case) for case in CASES])
def test_losses_and_parameters_do_not_depend_on_the_processes(told, case):
    alone, both = told
    assert len(alone[case]["losses"]) == 6
    assert alone[case]["losses"][0] != alone[case]["losses"][5]
    for each in both:
        for name, value in alone[case].items():
            np.testing.assert_allclose(each[case][name], value, rtol=2e-6, err_msg=name)


def test_halves_change_the_run_so_their_division_is_tested_here(told):
    alone, _ = told
    assert alone["full_halves"]["head"] != alone["full_norms"]["head"]
