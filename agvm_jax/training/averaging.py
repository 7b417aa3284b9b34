"""Moving averages of the weights (EMA), which often do better than the weights.

After step t, from 0 on, the average is ``d * average + (1 - d) * weights``, where
``d = min(decay, (1 + t) / (10 + t))``: at the beginning, when the weights are far from
where they will be, it forgets fast. As in TensorFlow's ExponentialMovingAverage with
``num_updates``, and in its detectors. Running statistics of BatchNorm are averaged
likewise, since they belong to the weights; a step that is skipped changes nothing.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from agvm_jax.training.state import TrainState


def check_decay(decay: float) -> str:
    """Returns what is said of `train.ema_decay`, "" if there is no average.

    Raises:
      ValueError: it is no such number.
    """
    if not 0 <= decay < 1:
        raise ValueError(
            f"train.ema_decay={decay:g} must be at least 0 and below 1, such as 0.999;"
            " 0 for no average of the weights."
        )
    return f"of weights, decay min({decay:g}, (1 + t) / (10 + t))" if decay else ""


def moved(
    average: Any, params: Any, model_state: Any, step: jax.Array, decay: float
) -> Any:
    """Returns the average after a step.

    Args:
      average: before it, as `TrainState` has it.
      params, model_state: after it.
      step: its number, from 0 on.
      decay: that of a long run, below 1.
    """
    time = step.astype(jnp.float32)
    share = 1 - jnp.minimum(decay, (1 + time) / (10 + time))

    def leaf(old, new):
        if not jnp.issubdtype(new.dtype, jnp.inexact):
            return new
        return old + (share * (new - old)).astype(old.dtype)

    return jax.tree.map(leaf, average, {"params": params, "model_state": model_state})


def averaged(state: TrainState) -> TrainState:
    """Returns a state with the averages in the place of the weights, to evaluate it."""
    return dataclasses.replace(state, **state.average)
