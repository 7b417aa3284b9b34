"""One of two processes with two devices each that run the toy in every shard mode.

python toy_of_four.py FOLDER
"""

import json
import sys
import time
from pathlib import Path

import jax
from toy_run import losses, make_experiment

from agvm_jax.training import mesh as mesh_lib
from agvm_jax.training.loop import train_and_evaluate

CASES = [
    ("none", "halves"),
    ("optimizer", "halves"),
    ("full", "halves"),
    ("full", "norms"),  # by taps
]


def run_all(folder: Path, late: float = 0) -> dict:
    """Returns what each case came to: losses, and the parameters at the end.

    Args:
      folder: where the run folders go.
      late: seconds that process 1 keeps the others waiting before the first run.
    """
    told = {}
    for shard, estimator in CASES:
        if jax.process_index() == 1:
            time.sleep(late)
        late = 0
        place = folder / f"{shard}_{estimator}"
        settings = {"agvm.estimator": estimator, "agvm.start_step": 1, "agvm.tau": 1}
        for steps in (3, 6):  # the second sitting goes on from the first one's end
            outcome = train_and_evaluate(
                make_experiment(
                    place, steps=steps, settings=settings, devices=4, shard=shard
                )
            )
        told[place.name] = {
            "losses": list(losses(place).values()),
            "head": mesh_lib.whole(outcome.state.params["head"]).tolist(),
            "backbone": jax.device_get(
                mesh_lib.whole(outcome.state.params["backbone"])
            ).tolist(),
        }
    return told


if __name__ == "__main__":
    jax.distributed.initialize()
    print(json.dumps(run_all(Path(sys.argv[1]), late=float(sys.argv[2]))))
    jax.distributed.shutdown()
