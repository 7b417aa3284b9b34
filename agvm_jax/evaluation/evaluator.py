"""Run a detector over a data set and hand what it finds to an evaluator.

An evaluator is anything with `reset`, `add(batch, predictions)`, `compute`, `state` and
`merge`, such as `DetectionEvaluator`; it sees NumPy arrays only.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils

from agvm_jax.structures import Batch, Predictions


class Evaluator(Protocol):
    """What `evaluate` asks of an evaluator."""

    def reset(self) -> None: ...

    def add(self, batch: Batch, predictions: Predictions) -> None: ...

    def compute(self) -> dict[str, float]: ...

    def state(self) -> bytes: ...

    def merge(self, states: Iterable[bytes]) -> None: ...


def evaluate(
    predict: Callable[[Batch], Predictions],
    batches: Iterable[Batch],
    evaluator: Evaluator,
    progress: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Return the evaluator's numbers for `predict` over `batches`.

    The next batch is dispatched before the former's predictions are fetched, so the
    device works while the host reads and evaluates. With several processes each calls
    this with its own share of the images; the states are exchanged at the end and every
    process returns the numbers of the whole, bit for bit those of a single process.

    Args:
      predict: a batch, as it comes from `batches`, to predictions of the same rows.
        With several processes, of this process's rows only.
      batches: host batches. Rows with image id -1 only fill a batch up.
      evaluator: reset first.
      progress: called with the number of images after each batch, like `tqdm.update`.
    """
    evaluator.reset()
    waiting: tuple[Batch, Predictions] | None = None
    for batch in batches:
        predictions = predict(batch)
        for array in jax.tree.leaves(predictions):
            if isinstance(array, jax.Array):
                array.copy_to_host_async()
        if waiting is not None:
            _add(evaluator, waiting, progress)
        waiting = (batch, predictions)
    if waiting is not None:
        _add(evaluator, waiting, progress)
    if jax.process_count() > 1:
        evaluator.merge(_gather(evaluator.state()))
    return evaluator.compute()


def _add(
    evaluator: Evaluator,
    waiting: tuple[Batch, Predictions],
    progress: Callable[[int], None] | None,
) -> None:
    batch, predictions = jax.device_get(waiting)
    evaluator.add(batch, predictions)
    if progress is not None:
        progress(int(np.count_nonzero(np.asarray(batch.image_id) >= 0)))


def _gather(state: bytes) -> Sequence[bytes]:
    """Exchange the processes' states; each array is padded to the longest."""
    lengths = multihost_utils.process_allgather(np.array([len(state)], np.int32))
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(state)] = np.frombuffer(state, np.uint8)
    gathered = multihost_utils.process_allgather(padded)
    return [
        row[:length].tobytes()
        for row, length in zip(gathered, lengths.ravel().tolist(), strict=True)
    ]
