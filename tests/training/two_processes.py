"""One of two processes that run the toy together; the test beside this starts both.

python two_processes.py FOLDER PORT INDEX
"""

import json
import signal
import sys
from pathlib import Path

import jax
from toy_run import make_experiment

from agvm_jax.training.loop import train_and_evaluate


def stop_one(folder: Path) -> dict:
    """Ctrl-C reaches process 1 alone, at its tenth batch."""
    index = jax.process_index()
    signal_at = 10 if index == 1 else None
    outcome = train_and_evaluate(
        make_experiment(
            folder, steps=400, signal_at=signal_at, number=signal.SIGINT, wait=0.05
        )
    )
    return {"status": outcome.status, "step": outcome.step}


def main(folder: str, port: str, index: str) -> None:
    jax.config.update("jax_num_cpu_devices", 1)
    jax.distributed.initialize(f"localhost:{port}", 2, int(index))
    told = {}
    for task in (stop_one,):
        place = Path(folder) / task.__name__
        place.mkdir(exist_ok=True)
        told[task.__name__] = task(place)
    print(json.dumps(told))
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
