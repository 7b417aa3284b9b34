"""What tests of convolutions share: random arrays, slow sums, how results compare."""

import jax.numpy as jnp
import numpy as np


def random_arrays(*shapes):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape) for shape in shapes]


def as_float32(*arrays):
    return [jnp.asarray(array, jnp.float32) for array in arrays]


def assert_close(actual, expected):
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=2e-6 * abs(expected).max()
    )


def slow_taps(x, size, stride):
    """Yield each tap of the kernel and the inputs that it multiplies."""
    half = size // 2
    padded = np.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
    height, width = x.shape[1:3]
    for i in range(size):
        for j in range(size):
            yield (i, j), padded[:, i : i + height : stride, j : j + width : stride]


def slow_conv(x, kernel, stride=1):
    taps = slow_taps(x, kernel.shape[0], stride)
    return sum(part @ kernel[tap] for tap, part in taps)


def slow_gradients(x, kernel, dy, stride=1):
    size = kernel.shape[0]
    half = size // 2
    height, width = x.shape[1:3]
    dkernel = np.zeros_like(kernel)
    dx = np.pad(np.zeros_like(x), ((0, 0), (half, half), (half, half), (0, 0)))
    for (i, j), part in slow_taps(x, size, stride):
        dkernel[i, j] = np.einsum("bhwc,bhwk->ck", part, dy)
        view = dx[:, i : i + height : stride, j : j + width : stride]
        view += dy @ kernel[i, j].T
    return dx[:, half : half + height, half : half + width], dkernel


def torch_nearest(x, size):
    """torch's interpolate(mode="nearest"): source = floor(target * in / out)."""
    rows, columns = (
        np.floor(np.arange(out) * (inside / out)).astype(int)
        for inside, out in zip(x.shape[1:3], size, strict=True)
    )
    return np.asarray(x)[:, rows][:, :, columns]
