"""One of two processes that run the toy together; the test beside this starts both.

python toy_of_two.py FOLDER
"""

import json
import signal
import sys
from pathlib import Path

import jax
from jax.experimental import multihost_utils
from toy_run import make_experiment

from agvm_jax.training.loop import train_and_evaluate
from agvm_jax.training.restoring import saved_steps


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


def skip_one(folder: Path) -> dict:
    """Batch 2 has a bad row, which process 0 reads."""
    outcome = train_and_evaluate(make_experiment(folder, steps=4, bad=(2,)))
    return {"step": outcome.step, "log": (folder / "log.txt").read_text()}


def damage_one(folder: Path) -> dict:
    """The newest checkpoint is damaged between two sittings."""
    train_and_evaluate(make_experiment(folder, steps=4))
    if jax.process_index() == 0:
        (folder / "checkpoints" / "4" / "state" / "manifest.ocdbt").write_bytes(b"")
    multihost_utils.sync_global_devices("damaged")
    outcome = train_and_evaluate(make_experiment(folder, steps=6))
    return {
        "status": outcome.status,
        "step": outcome.step,
        "saved": saved_steps(folder / "checkpoints"),
        "aside": [path.name for path in (folder / "damaged_checkpoints").iterdir()],
        "params": jax.device_get(outcome.state.params["head"]).tolist(),
    }


def main(folder: str) -> None:
    jax.distributed.initialize()
    told = {}
    for task in (skip_one, damage_one, stop_one):
        place = Path(folder) / task.__name__
        told[task.__name__] = task(place)
    print(json.dumps(told))
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
