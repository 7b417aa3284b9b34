"""TrainState: everything that a run is, between two steps.

It is one pytree of arrays, so it is donated to the step, checkpointed and compared as a
whole. The position in the data is not in it because it follows from ``step``: the
stream is indexed, and a step takes the same number of batches every time.

There is one clock, ``step``: the batches that the run has consumed. Every count in the
optimizer's state goes with it, also in a step that is skipped because it was not
finite. So the learning rate follows the images that were seen, a schedule ends where
the run ends, and whether a step measures phi depends on its number alone.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The state of a run.

    Attributes:
      step: int32 scalar, optimizer steps taken or skipped so far.
      params: nested dict of float32 parameters; top keys are the modules.
      model_state: nested dict of BatchNorm statistics.
      opt_state: the optimizer's state, with AGVM's count, phi and mu inside; its counts
        are ``step``.
      noise: smoothed scalars of the gradient noise scale (`optim.noise`).
      key: uint32 data of the run's random key; a step folds its number into it.
      skipped: int32 scalar, non-finite steps in a row until now.
      average: None, or the moving averages of params and model_state, a dict with these
        two names (`training.averaging`).
    """

    step: jax.Array
    params: Any
    model_state: Any
    opt_state: Any
    noise: Any
    key: jax.Array
    skipped: jax.Array
    average: Any = None


def create_state(
    params, model_state, opt_state, noise, seed: int, average: bool = False
) -> TrainState:
    """Returns the state before the first step; with ``average``, one that keeps one."""
    start = {"params": params, "model_state": model_state} if average else None
    return TrainState(
        step=jnp.zeros([], jnp.int32),
        params=params,
        model_state=model_state,
        opt_state=opt_state,
        noise=noise,
        key=random_key(seed),
        skipped=jnp.zeros([], jnp.int32),
        # Copies: a step gives every buffer away, once.
        average=jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), start),
    )


def random_key(seed: int) -> jax.Array:
    """Returns a run's random key as `TrainState` holds it: uint32 data."""
    return jax.random.key_data(jax.random.key(seed))
