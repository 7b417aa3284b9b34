"""Self-attention inside square windows of a map, shifted or not.

Liu et al. 2021 ("Swin Transformer"), section 3.2; in every detail that changes a
number, torchvision's. A map whose sides are not multiples of the window's is padded
below and to the right with zeros, and the padding is attended to like any other place,
as in torchvision and in the authors' detector. The only gather is that of the biases.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int32

from .arrays import Array


@functools.cache
def relative_positions(window: int) -> Int32[np.ndarray, "{window}**2 {window}**2"]:
    """Return the row of the bias table for each pair of places in a window.

    Args:
      window: side w of the window; its places are counted row by row.

    Returns:
      (w * w, w * w) int32: entry (i, j) is row (y_i - y_j + w - 1) * (2 w - 1)
      + x_i - x_j + w - 1 of a table of (2 w - 1)^2 rows.

    >>> relative_positions(2)[0].tolist()
    [4, 3, 1, 0]
    """
    places = np.stack(np.mgrid[:window, :window], -1).reshape(-1, 2)
    offsets = places[:, None] - places[None, :] + window - 1
    return (offsets @ np.array([2 * window - 1, 1])).astype(np.int32)


def effective_shift(size: tuple[int, int], window: int, shift: int) -> tuple[int, int]:
    """Return the shift along each side of a map: none where one window covers it.

    >>> effective_shift((20, 7), window=7, shift=3)
    (3, 0)
    """
    rows, columns = (shift if side > window else 0 for side in size)
    return rows, columns


def to_windows(
    x: Float[Array, "B H W C"], window: int, shift: int
) -> Float[Array, "B rows columns {window}**2 C"]:
    """Pad, shift and cut a map into windows.

    Args:
      x: (B, H, W, C).
      window: side w of the windows.
      shift: the windows begin this many rows and columns further down and right; what
        is cut off above and left is put together with what is left over below and
        right, see `crossings`.

    Returns:
      (B, ceil(H / w), ceil(W / w), w * w, C).

    >>> to_windows(jnp.arange(9.0).reshape(1, 3, 3, 1), 2, 0)[0, 1, 0, :, 0].tolist()
    [6.0, 7.0, 0.0, 0.0]
    """
    batch, height, width, channels = x.shape
    rows, columns = -(-height // window), -(-width // window)
    space = ((0, rows * window - height), (0, columns * window - width))
    if space != ((0, 0), (0, 0)):
        x = jnp.pad(x, ((0, 0), *space, (0, 0)))
    down, right = effective_shift((height, width), window, shift)
    if down or right:
        x = jnp.roll(x, (-down, -right), (1, 2))
    x = x.reshape(batch, rows, window, columns, window, channels)
    return x.swapaxes(2, 3).reshape(batch, rows, columns, window**2, channels)


def from_windows(
    windows: Float[Array, "B rows columns {window}**2 C"],
    size: tuple[int, int],
    window: int,
    shift: int,
) -> Float[Array, "B {size[0]} {size[1]} C"]:
    """Undo `to_windows`: (B, rows, columns, w * w, C) to (B, H, W, C), size (H, W)."""
    batch, rows, columns, _, channels = windows.shape
    x = windows.reshape(batch, rows, columns, window, window, channels)
    x = x.swapaxes(2, 3).reshape(batch, rows * window, columns * window, channels)
    down, right = effective_shift(size, window, shift)
    if down or right:
        x = jnp.roll(x, (down, right), (1, 2))
    return x[:, : size[0], : size[1]]


def crossings(
    size: tuple[int, int], window: int, shift: int
) -> tuple[Bool[np.ndarray, "rows 1 T T"], Bool[np.ndarray, "columns T T"]] | None:
    """Return which pairs of places the shift brought together from opposite borders.

    They must not see each other. Only the last row of windows holds rows from both
    borders, and only the last column of windows such columns, so two small constants
    say it all.

    Args:
      size: (height, width) of the map, before any padding.
      window: side w of the windows.
      shift: as given to `to_windows`.

    Returns:
      None if nothing was shifted. Else bool arrays, one for the rows of windows, (rows,
      1, w * w, w * w), and one for the columns, (columns, w * w, w * w); a pair is
      crossing in a window if either says so.
    """
    shifts = effective_shift(size, window, shift)
    if not any(shifts):
        return None
    found = []
    for axis in range(2):
        place = np.indices((window, window))[axis].reshape(-1)
        # What came around stands at the end of the last window.
        around = (place >= window - shifts[axis]) & bool(shifts[axis])
        crossing = np.zeros((-(-size[axis] // window), window**2, window**2), bool)
        crossing[-1] = around[:, None] != around[None, :]
        found.append(crossing)
    return found[0][:, None], found[1]


def window_attention(
    qkv: Float[Array, "B rows columns T triple"],
    bias: Float[Array, "heads T T"],
    crossing: tuple[Bool[np.ndarray, "rows 1 T T"], Bool[np.ndarray, "columns T T"]]
    | None = None,
) -> Float[Array, "B rows columns T triple//3"]:
    """Attend within each window: softmax(q k' / sqrt(d) + bias) v for each head.

    The logits and the softmax are float32 whatever the dtype of `qkv`.

    Args:
      qkv: (B, rows, columns, T, 3 * C): queries, keys and values, each of them head by
        head.
      bias: (heads, T, T), added to the logits; heads divides C.
      crossing: pairs of places that must not see each other, see `crossings`.

    Returns:
      (B, rows, columns, T, C), of the dtype of `qkv`.
    """
    *windows, places, triple = qkv.shape
    heads = bias.shape[0]
    depth = triple // (3 * heads)
    qkv = qkv.reshape(*windows, places, 3, heads, depth)
    q, k, v = jnp.moveaxis(
        qkv, (-3, -2), (0, -3)
    )  # each (B, rows, columns, heads, T, d)
    q = q * depth**-0.5
    logits = jnp.matmul(q, k.mT, preferred_element_type=jnp.float32)
    logits = logits + bias.astype(jnp.float32)
    if crossing is not None:
        rows, columns = crossing
        # Every place sees itself, so no row is empty.
        hidden = jnp.expand_dims(jnp.logical_or(rows, columns), -3)
        logits = jnp.where(hidden, -jnp.inf, logits)
    weights = jax.nn.softmax(logits, -1).astype(v.dtype)
    attended = jnp.matmul(weights, v)  # (B, rows, columns, heads, T, d)
    return attended.swapaxes(-3, -2).reshape(*windows, places, heads * depth)
