"""Max pooling 3x3 of stride 1 for the CPU.

As in the pooling of stride 2, the forward pass remembers in one byte an output which of
the nine inputs won, and the backward pass asks for it.
"""

import jax
import jax.numpy as jnp

TAPS = [(i, j) for i in range(3) for j in range(3)]


@jax.custom_vjp
def dense_max_pool(x: jax.Array) -> jax.Array:
    """See `ops.depthwise.dense_max_pool`."""
    return _pool_with_winner(x)[0]


def _pool_with_winner(x):
    """Return the maxima and, as int8, which tap 0..8 of its window each one was."""
    taps = list(_neighbours(x, -jnp.inf))
    best, winner = taps[0], jnp.zeros(x.shape, jnp.int8)
    for tap, candidate in enumerate(taps[1:], start=1):
        better = candidate > best
        best = jnp.where(better, candidate, best)
        winner = jnp.where(better, jnp.int8(tap), winner)
    return best, winner


def _backward(winner, dy):
    """An input gets the slopes of the windows around it that it won.

    It is tap 8 - t of the window at its neighbour t.
    """
    pairs = zip(_neighbours(winner, -1), _neighbours(dy, 0), strict=True)
    shares = (
        jnp.where(won == 8 - tap, slope, 0) for tap, (won, slope) in enumerate(pairs)
    )
    return (sum(shares),)


dense_max_pool.defvjp(_pool_with_winner, _backward)


def _neighbours(x, fill):
    """Yield for each of the nine taps the map of that neighbour."""
    _, height, width, _ = x.shape
    ends = ((0, 0), (1, 1), (1, 1), (0, 0))
    x = jnp.pad(x, ends, constant_values=fill)
    for i, j in TAPS:
        yield x[:, i : i + height, j : j + width]
