"""What only several processes can show; both are started once for all of it."""

import json
from pathlib import Path

import pytest
from two_processes import ends_of, start_both


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What each of the two processes tells of its tasks."""
    folder = tmp_path_factory.mktemp("two")
    ends = ends_of(start_both(Path(__file__).parent / "toy_of_two.py", folder))
    assert [code for code, _, _ in ends] == [0, 0], ends
    return [json.loads(out.splitlines()[-1]) for _, out, _ in ends]


def test_a_signal_to_one_process_stops_all_at_the_same_step(told):
    first, second = (each["stop_one"] for each in told)
    assert first == second
    assert first["status"] == "interrupted" and 5 <= first["step"] < 200


def test_a_bad_step_is_told_with_the_images_of_all_processes(told):
    for each in told:
        assert each["skip_one"]["step"] == 4
        assert "step 3 was skipped" in each["skip_one"]["log"]
        assert "image ids 8, 9, 10, 11" in each["skip_one"]["log"]


def test_a_damaged_checkpoint_is_set_aside_by_one_and_seen_by_all(told):
    first, second = (each["damage_one"] for each in told)
    assert first == second
    assert (first["status"], first["step"]) == ("finished", 6)
    assert (first["saved"], first["aside"]) == ([2, 4, 6], ["4"])
