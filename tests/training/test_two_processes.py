"""What only several processes can show; both are started once for all of it."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What each of the two processes tells of its tasks."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    environment.pop("JAX_NUM_CPU_DEVICES", None)
    processes = [
        subprocess.Popen(
            [sys.executable, HERE / "two_processes.py", folder, str(port), str(index)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        ends = [process.communicate(timeout=200) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, err) in zip(processes, ends, strict=True):
        assert process.returncode == 0, err
    return [json.loads(out.splitlines()[-1]) for out, _ in ends]


def test_a_signal_to_one_process_stops_all_at_the_same_step(told):
    first, second = (each["stop_one"] for each in told)
    assert first == second
    assert first["status"] == "interrupted" and 5 <= first["step"] < 200
