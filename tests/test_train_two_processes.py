"""The command line on two processes: one of them is stopped, both go on, both finish.

Half of the images have no object, so that one process often has a batch without any
while the other's has some.
"""

import json
import re
import signal
import time
from pathlib import Path

import pytest
from two_processes import ends_of, start_both

from agvm_jax.data.dataset import open_dataset
from agvm_jax.data.pipeline import train_batches
from benchmarks.coco_writer import coco_content, flat_png, write_split
from configs import tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

IMAGES, STEPS = 12, 100


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A COCO-format folder in which every second image is empty."""
    scratch = tmp_path_factory.mktemp("scratch")
    folder = scratch / "folder"
    encoded = {f"{i}.png": flat_png(64, 64, 20 * i) for i in range(1, IMAGES + 1)}
    content = coco_content(
        [(name, 64, 64) for name in encoded],
        [(i, (8, 8, 30, 30)) for i in range(1, IMAGES + 1, 2)],
        (7, "thing"),
    )
    for split in ("train", "val"):
        file = folder / f"instances_{split}.json"
        write_split(file, folder / split, content, encoded)
    return scratch


@pytest.fixture(scope="module")
def start(scratch):
    """Returns a function that starts train.py twice."""

    def start():
        return start_both(
            "train.py",
            "--distributed",
            "--config=configs/tiny.py",
            "--config.data.name=coco_folder",
            f"--config.data.root={scratch / 'folder'}",
            f"--config.data.cache_dir={scratch / 'cache'}",
            f"--config.workdir={scratch / 'run'}",
            "--config.batch_size=2",
            f"--config.steps={STEPS}",
            "--config.train.progress=False",
            "--config.train.eval_every_epochs=0",
            "--config.train.checkpoint_every_epochs=0",
            JAX_COMPILATION_CACHE_DIR=str(scratch / "compiled"),
            JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
        )

    return start


@pytest.fixture(scope="module")
def stopped(start, scratch):
    """The ends of a run of which process 1 got a SIGTERM after some steps."""
    processes = start()
    written = scratch / "run" / "metrics.jsonl"
    while all(process.poll() is None for process in processes):
        if written.exists() and '"loss"' in written.read_text():
            processes[1].send_signal(signal.SIGTERM)
            break
        time.sleep(0.05)
    return ends_of(processes)


@pytest.fixture(scope="module")
def finished(stopped, start):
    """The ends of the same command again."""
    return ends_of(start())


def test_a_signal_to_one_stops_both_and_both_say_75(stopped):
    assert [code for code, _, _ in stopped] == [75, 75], stopped
    assert re.search(r"stopped by a signal after step \d+ of 100", stopped[0][1])


def test_both_go_on_and_finish(finished, scratch):
    assert [code for code, _, _ in finished] == [0, 0], finished
    assert re.search(r"resumed from the checkpoint of step \d+ of 100", finished[0][1])
    for name in (
        "model.json",
        "weights.safetensors",
        "weights_best.safetensors",
        "plots/phi.png",
        f"eval/{STEPS}/results.json",
        f"eval/{STEPS}/detections.png",
    ):
        assert (scratch / "run" / name).stat().st_size > 0, name


def test_a_batch_without_any_object_is_a_batch(finished, scratch):
    config = tiny.get_config()
    config.data.name = "coco_folder"
    config.data.root = str(scratch / "folder")
    config.data.cache_dir = str(scratch / "cache")
    with_objects = []
    for index in range(2):
        batches = train_batches(
            open_dataset(config.data).train,
            image_size=config.image_size,
            batch_size=2,
            seed=config.seed,
            data_config=config.data,
            process_index=index,
            process_count=2,
        )
        with_objects.append([bool(next(batches).valid.any()) for _ in range(STEPS)])
        batches.close()
    kinds = set(zip(*with_objects, strict=True))
    assert kinds == {(False, False), (False, True), (True, False), (True, True)}
    lines = [
        json.loads(line)
        for line in (scratch / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == STEPS and None not in losses
    assert not Path(scratch / "run" / "nonfinite.jsonl").exists()
