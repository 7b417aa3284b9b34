"""Max pooling 3x3 with stride 2, see `ops.pooling`, as the CPU computes it well.

The compiler's gradient of a pooling window is a select-and-scatter, ten times slower on
the CPU than what stands here: there the forward pass remembers, in one byte an output,
which of the nine inputs won. TPUs have a kernel for the window and its gradient and
move seven times the bytes without it (docs/performance.md).
"""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
    """Pool (B, H, W, C). Differentiable once, in reverse."""
    return _pool_with_winner(x)[0]


def _pool_with_winner(x):
    """Return the maxima and, as int8, which tap 0..8 of its window each one was."""
    _, height, width, _ = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    best = x[:, 0:height:2, 0:width:2]
    winner = jnp.zeros(best.shape, jnp.int8)
    for tap in range(1, 9):
        i, j = divmod(tap, 3)
        candidate = x[:, i : i + height : 2, j : j + width : 2]
        better = candidate > best
        best = jnp.where(better, candidate, best)
        winner = jnp.where(better, jnp.int8(tap), winner)
    return best, winner


def _forward(x):
    best, winner = _pool_with_winner(x)
    size = jnp.zeros((*x.shape[1:3], 0), jnp.int8)  # carries the height and the width
    return best, (winner, size)


def _backward(residuals, dy):
    """Each input asks the windows that see it whether it was their winner.

    Along each axis an even input 2p is the middle tap of window p; an odd one, 2p + 1,
    is the last tap of p and the first of p + 1.
    """
    winner, size = residuals
    batch, rows, columns, channels = dy.shape
    ends = ((0, 0), (0, 1), (0, 1), (0, 0))
    winner = jnp.pad(winner, ends, constant_values=-1)
    dy = jnp.pad(dy, ends)

    def share(tap_i, tap_j, shift_i, shift_j):
        here = (
            slice(None),
            slice(shift_i, shift_i + rows),
            slice(shift_j, shift_j + columns),
        )
        return jnp.where(winner[here] == 3 * tap_i + tap_j, dy[here], 0)

    taps = (((1, 0),), ((2, 0), (0, 1)))  # for even and odd inputs: (tap, shift)
    parity_rows = []
    for row_taps in taps:
        parities = [
            sum(share(i, j, di, dj) for i, di in row_taps for j, dj in some)
            for some in taps
        ]
        parity_rows.append(jnp.stack(parities, axis=3))
    dx = jnp.stack(parity_rows, axis=2).reshape(batch, 2 * rows, 2 * columns, channels)
    return (dx[:, : size.shape[0], : size.shape[1]],)


max_pool.defvjp(_forward, _backward)
