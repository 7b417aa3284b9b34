"""Two processes of one run, joined as Open MPI joins them, on two CPU devices."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def start_both(*command, **environment):
    """Starts ``python command`` twice, as processes 0 and 1; returns the two."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "OMPI_MCA_orte_hnp_uri": "0.0;tcp://127.0.0.1:1",
        "OMPI_COMM_WORLD_SIZE": "2",
        **environment,
    }
    return [
        subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={
                **environment,
                "OMPI_COMM_WORLD_RANK": str(index),
                "OMPI_COMM_WORLD_LOCAL_RANK": str(index),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]


def ends_of(processes, timeout=280):
    """Waits for both; returns (exit code, stdout, stderr) of each."""
    try:
        out = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [(p.returncode, *each) for p, each in zip(processes, out, strict=True)]
