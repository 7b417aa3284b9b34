"""3x3 convolutions with 2.25 times fewer multiplications, for the CPU.

Lavin and Gray 2016, F(2x2, 3x3): every 2x2 tile of outputs, 36 products a pair of
channels when computed directly, is computed from a 4x4 tile of inputs with 16:

    Y = A' [(G g G') * (B' d B)] A

The sums over channels are then 16 matrix products. The error is that of the direct
sum (the transforms only add and halve). What makes it pay is that a block of tiles is
transformed, multiplied and transformed back while it is still in the cache.
"""

import jax
import jax.numpy as jnp
from jax import lax

# Elements of the transformed input that a block may have, 4 MiB of float32, unless that
# leaves it fewer tiles than it takes to be worth reading the kernel again.
_BLOCK = 2**20
_TILES = 256


def largest_divisor(number: int, most: int) -> int:
    """Return the largest divisor of `number` that is at most `most`, or 1."""
    most = max(1, min(number, most))
    return max(n for n in range(1, most + 1) if number % n == 0)


def winograd_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve (B, H, W, C) with (3, 3, C, K), padded by 1; any H and W."""
    return _convolve(x, kernel, over=1)


def winograd_input_gradient(kernel: jax.Array, dy: jax.Array) -> jax.Array:
    """Return the gradient (B, H, W, C) of the input for dy (B, H, W, K).

    It is dy convolved with the mirrored kernel, its channels exchanged; not by a
    transposed kernel, which takes longer to make than to use, but by products over the
    transformed kernel's last axis.
    """
    return _convolve(dy, kernel[::-1, ::-1], over=2)


def _convolve(x: jax.Array, kernel: jax.Array, over: int) -> jax.Array:
    """Convolve `x`, whose channels are the axis `over` of (16, C, K) kernels."""
    batch, height, width, _ = x.shape
    plan = _Plan(x.shape)
    transformed = lax.optimization_barrier(_transform_kernel(kernel))

    def convolve(block):
        tiles = _transform_input(block, plan)
        return _inverse_transform(_multiply(tiles, transformed, over), plan)

    out = lax.map(convolve, plan.cut_input(x))  # (blocks, images, 2 rows, 2 w, K)
    out = out.reshape(batch, -1, *out.shape[3:])
    return out[:, :height, :width]


def winograd_kernel_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
    """Return the gradient (3, 3, C, K) of the kernel for dy (B, H, W, K).

    With the input's tiles V and the outputs' gradients D = A dY A', the transformed
    kernel's gradient is V' D, summed over all tiles.
    """
    plan = _Plan(x.shape)
    x, dy = plan.cut_input(x), plan.cut_output(dy)

    def multiply(x_block, dy_block):
        tiles = lax.optimization_barrier(_transform_input(x_block, plan))
        # Transposed on purpose: a product that sums over rows is slower by half.
        return _multiply(tiles.swapaxes(1, 2), _transform_output_gradient(dy_block))

    # The first block starts the sum, so that the carry has its type in every mesh.
    total = multiply(x[0], dy[0])
    if len(x) > 1:
        total, _ = lax.scan(
            lambda total, block: (total + multiply(*block), None),
            total,
            (x[1:], dy[1:]),
        )
    return _transform_kernel_back(total)


def _multiply(a: jax.Array, b: jax.Array, over: int = 1) -> jax.Array:
    """Multiply 16 matrices by 16, over b's axis `over`, all finished beforehand."""
    a, b = lax.optimization_barrier((a, b))
    return lax.dot_general(a, b, (((2,), (over,)), ((0,), (0,))))


class _Plan:
    """How a batch is cut into blocks: bands of one image, or several whole images.

    Attributes:
      rows: rows of tiles in a block.
      columns: tiles in a row.
      images: images in a block.
      bands: blocks that an image is cut into.
    """

    def __init__(self, shape: tuple[int, int, int, int]):
        batch, self.height, self.width, channels = shape
        rows, self.columns = -(-self.height // 2), -(-self.width // 2)
        row_size = 16 * self.columns * channels
        by_size = -(-rows * row_size // _BLOCK)
        by_tiles = max(1, rows * self.columns // _TILES)
        self.bands = min(rows, by_size, by_tiles)
        self.rows = -(-rows // self.bands)
        self.images = 1
        if self.bands == 1:
            self.images = largest_divisor(batch, _BLOCK // (row_size * self.rows))

    @property
    def missing(self) -> tuple[int, int]:
        """Rows and columns of pixels that the last tiles have too many."""
        padded_height = 2 * self.rows * self.bands
        return padded_height - self.height, 2 * self.columns - self.width

    def cut_input(self, x: jax.Array) -> jax.Array:
        """Cut (B, H, W, C) into (blocks, images, h, W, C).

        Bands overlap by two rows and have their padding above and below; whole images
        get theirs when they are transformed, which saves a copy.
        """
        if self.bands > 1:
            x = jnp.pad(x, ((0, 0), (1, 1 + self.missing[0]), (0, 0), (0, 0)))
            starts = range(0, 2 * self.rows * self.bands, 2 * self.rows)
            bands = [x[:, start : start + 2 * self.rows + 2] for start in starts]
            x = jnp.stack(bands, axis=1)
        return x.reshape(-1, self.images, *x.shape[-3:])

    def cut_output(self, y: jax.Array) -> jax.Array:
        """Cut (B, H, W, K) into (blocks, images, 2 rows, 2 columns, K)."""
        below, right = self.missing
        y = jnp.pad(y, ((0, 0), (0, below), (0, right), (0, 0)))
        return y.reshape(-1, self.images, 2 * self.rows, *y.shape[2:])


def _transform_input(block: jax.Array, plan: _Plan) -> jax.Array:
    """Return B' d B of all tiles of a block: (16, tiles, C)."""
    below, right = plan.missing
    rows = (0, 0) if plan.bands > 1 else (1, 1 + below)
    block = jnp.pad(block, ((0, 0), rows, (1, 1 + right), (0, 0)))
    height, width = 2 * plan.rows, 2 * plan.columns

    def transform(d):
        return d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]

    rows = transform([block[:, i : i + height : 2] for i in range(4)])
    tiles = [
        tile
        for row in rows
        for tile in transform([row[:, :, j : j + width : 2] for j in range(4)])
    ]
    return jnp.stack(tiles).reshape(16, -1, block.shape[-1])


def _inverse_transform(products: jax.Array, plan: _Plan) -> jax.Array:
    """Return A' M A of products (16, tiles, K): (images, 2 rows, 2 columns, K)."""
    m = products.reshape(4, 4, plan.images, plan.rows, plan.columns, -1)

    def transform(m):
        return m[0] + m[1] + m[2], m[1] - m[2] - m[3]

    rows = [jnp.stack(transform(row), axis=3) for row in transform(m)]
    y = jnp.stack(rows, axis=2)
    return y.reshape(plan.images, 2 * plan.rows, 2 * plan.columns, -1)


def _transform_output_gradient(dy: jax.Array) -> jax.Array:
    """Return A dY A' of (images, 2 r, 2 w, K): (16, tiles, K)."""
    images, height, width, channels = dy.shape
    d = dy.reshape(images, height // 2, 2, width // 2, 2, channels)

    def transform(a, b):
        return a, a + b, a - b, -b

    rows = transform(d[:, :, 0], d[:, :, 1])  # each (images, r, w, 2, K)
    tiles = [tile for row in rows for tile in transform(row[..., 0, :], row[..., 1, :])]
    return jnp.stack(tiles).reshape(16, -1, channels)


def _transform_kernel(kernel: jax.Array) -> jax.Array:
    """Return G g G' of (3, 3, C, K): (16, C, K)."""

    def transform(g):
        outer = g[0] + g[2]
        return jnp.stack([g[0], 0.5 * (outer + g[1]), 0.5 * (outer - g[1]), g[2]])

    columns = transform(kernel).swapaxes(0, 1)
    return transform(columns).swapaxes(0, 1).reshape(16, *kernel.shape[2:])


def _transform_kernel_back(gradient: jax.Array) -> jax.Array:
    """Return G' U G of (16, C, K): (3, 3, C, K), the transpose of the above."""

    def transform(u):
        half_sum, half_difference = 0.5 * (u[1] + u[2]), 0.5 * (u[1] - u[2])
        return jnp.stack([u[0] + half_sum, half_difference, half_sum + u[3]])

    columns = transform(gradient.reshape(4, 4, *gradient.shape[1:])).swapaxes(0, 1)
    return transform(columns).swapaxes(0, 1)
