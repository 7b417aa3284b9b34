"""Predictions for a few validation images, to be drawn."""

from typing import Any

import jax
import numpy as np

from agvm_jax.training.experiment import Experiment
from agvm_jax.training.mesh import first_process_says
from agvm_jax.training.state import TrainState


def predicted_examples(
    experiment: Experiment, state: TrainState, count: int
) -> list[tuple[Any, Any]]:
    """Predicts validation batches until the first process has ``count`` images.

    All processes call this: a prediction is one program over all their devices, and a
    process that ran it alone would wait for the others for ever.

    Returns:
      (Batch, Predictions) of this process's rows, on the host.
    """
    examples, images = [], 0
    for batch in experiment.data.validation():
        if not first_process_says(images < count):
            break
        examples.append((batch, jax.device_get(experiment.model.predict(state, batch))))
        images += np.count_nonzero(np.asarray(batch.image_id) >= 0)
    return examples
