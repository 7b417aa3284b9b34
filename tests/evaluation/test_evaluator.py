"""Running a detector over batches: order, overlap, padding, several processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agvm_jax.evaluation.detection import DetectionEvaluator
from agvm_jax.evaluation.evaluator import evaluate
from agvm_jax.structures import Batch, Predictions


class Recorder:
    """An evaluator that writes down what reaches it."""

    def __init__(self, events):
        self.events = events

    def reset(self):
        self.events.append("reset")

    def add(self, batch, predictions):
        assert all(isinstance(a, np.ndarray) for a in jax.tree.leaves(predictions))
        assert isinstance(batch.image_id, np.ndarray)
        self.events.append(f"add {batch.image_id[0]}")

    def compute(self):
        self.events.append("compute")
        return {"AP": 0.25}


def one_batch(*image_ids):
    size = np.full((len(image_ids), 2), 8)
    return Batch(None, size, np.array(image_ids), *[None] * 4)


def empty_predictions(count):
    return Predictions(
        jnp.zeros((count, 1, 4)),
        jnp.zeros((count, 1)),
        jnp.full((count, 1), -1),
        jnp.zeros((count, 1), bool),
    )


def test_a_batch_is_dispatched_before_the_former_is_fetched():
    events, progress = [], []

    def predict(batch):
        events.append(f"predict {batch.image_id[0]}")
        return empty_predictions(2)

    batches = [one_batch(1, 2), one_batch(3, 4), one_batch(5, -1)]
    result = evaluate(predict, batches, Recorder(events), progress.append)
    assert result == {"AP": 0.25}
    assert progress == [2, 2, 1]
    assert events == [
        "reset", "predict 1", "predict 3", "add 1", "predict 5", "add 3", "add 5",
        "compute",
    ]  # fmt: skip


def test_no_batches_give_the_numbers_of_an_empty_evaluation():
    events = []
    evaluate(lambda batch: batch, [], Recorder(events))
    assert events == ["reset", "compute"]


def test_predictions_may_be_numpy_arrays_and_padding_rows_are_not_counted():
    truth = {
        "images": [{"id": 3, "height": 8, "width": 8}],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 1, "bbox": [0, 0, 4, 4]}
        ],
        "categories": [{"id": 1, "name": "a"}],
    }
    evaluator = DetectionEvaluator(truth, (1,), ("a",))
    found = Predictions(
        np.full((2, 1, 4), [0.0, 0, 4, 4]),
        np.full((2, 1), 0.5),
        np.zeros((2, 1), int),
        np.ones((2, 1), bool),
    )
    numbers = evaluate(lambda batch: found, [one_batch(-1, 3)], evaluator)
    assert numbers["AP"] == pytest.approx(1.0)
    assert len(evaluator.detections()) == 1


PROCESS = """
import json, sys
import jax
import numpy as np
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from agvm_jax.evaluation.detection import DetectionEvaluator
from agvm_jax.evaluation.evaluator import evaluate
from agvm_jax.structures import Batch, Predictions

truth = {
    "images": [{"id": i, "height": 8, "width": 8} for i in range(5)],
    "annotations": [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [0, 0, 4, 4]}
        for i in range(5)
    ],
    "categories": [{"id": 1, "name": "a"}],
}
def predict(batch):
    boxes = np.array([[[0.0, 0, 4, 4 - 0.3 * batch.image_id[0]], [2, 2, 4, 4]]])
    scores = np.array([[0.5, 0.9 - 0.1 * batch.image_id[0]]])
    return Predictions(boxes, scores, np.zeros((1, 2), int), np.ones((1, 2), bool))
def batches(ids):
    return [Batch(None, np.array([[8, 8]]), np.array([i]), *[None] * 4) for i in ids]
evaluator = DetectionEvaluator(truth, (1,), ("a",))
shared = evaluate(predict, batches(range(5)[int(sys.argv[2])::2]), evaluator)
evaluator.reset()
for batch in batches(range(5)):
    evaluator.add(batch, predict(batch))
print(json.dumps([shared, evaluator.compute(), evaluator.num_images]))
"""


def test_two_processes_return_the_numbers_of_one_bit_for_bit():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, address, str(rank)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=Path(__file__).parents[2],
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors
    for out, _ in outputs:
        shared, alone, count = json.loads(out.splitlines()[-1])
        assert count == 5
        assert 0 < shared["AP"] < 1
        assert shared == alone
