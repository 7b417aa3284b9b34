"""Stochastic depth: residual branches that training leaves out of some samples.

Huang et al. 2016, "Deep Networks with Stochastic Depth", by sample.
"""

import jax
import numpy as np


def rising_rates(last: float, blocks: int) -> tuple[float, ...]:
    """Return the probability of each block, linearly from 0 to `last`.

    Raises:
      ValueError: `last` is outside [0, 1).

    >>> rising_rates(0.5, 3)
    (0.0, 0.25, 0.5)
    """
    if not 0.0 <= last < 1.0:
        raise ValueError(f"drop_path is {last}: it must be in [0, 1)")
    return tuple(np.linspace(0.0, last, blocks).tolist())


def branch_gains(
    rates: tuple[float, ...], batch: int, key: jax.Array | None
) -> jax.Array | None:
    """Return 0 or 1 / kept share for each block, branch and sample, or None.

    Args:
      rates: probability of each block that a branch of it is left out.
      batch: B.
      key: decides which; not needed where all rates are 0.

    Returns:
      (blocks, 2, B) float32, of mean 1; None where all rates are 0.

    Raises:
      ValueError: a key is needed and there is none.
    """
    if not any(rates):
        return None
    if key is None:
        raise ValueError(
            f"drop_path is {rates[-1]}: training needs a key, which decides what is "
            "left out"
        )
    kept = 1.0 - np.array(rates, np.float32)[:, None, None]
    chosen = jax.random.bernoulli(key, kept, (len(kept), 2, batch))
    return chosen / kept


def scale(branch: jax.Array, gains: jax.Array | None, index: int) -> jax.Array:
    """Return `branch` (B, H, W, C) times gains[index] (B,), if there are any."""
    if gains is None:
        return branch
    return branch * gains[index].astype(branch.dtype)[:, None, None, None]
