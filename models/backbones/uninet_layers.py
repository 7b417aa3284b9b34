"""What the blocks of UniNet are made of.

Initial weights are those of the released code: torch's default for convolutions, a
normal distribution of deviation 0.02 for fully connected layers.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from ..layers import BatchNorm, Conv
from ..ops.depthwise import dense_max_pool, depthwise_conv
from ..ops.pooling import max_pool

# Uniform of variance 1 / (3 fan-in).
torch_uniform = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# The authors truncate at 2, which is a hundred of these deviations.
normal_init = nnx.initializers.normal(0.02)


@dataclasses.dataclass(frozen=True)
class Layers:
    """Makes layers that share a norm, a dtype and random keys.

    Attributes:
      norm: mode of BatchNorm.
      axis_name: the mesh axis of the replicas.
      dtype: what activations are computed in.
      rngs: keys for the initial weights.
    """

    norm: str
    axis_name: str | tuple[str, ...] | None
    dtype: jnp.dtype
    rngs: nnx.Rngs

    def batch_norm(self, channels: int, *, zero: bool = False) -> BatchNorm:
        """Make a BatchNorm; `zero`: of scale 0, its branch starts as nothing."""
        norm = BatchNorm(channels, mode=self.norm, axis_name=self.axis_name)
        if zero:
            norm.scale = type(norm.scale)(jnp.zeros((channels,), jnp.float32))
        return norm

    def layer_norm(self, channels: int) -> nnx.LayerNorm:
        return nnx.LayerNorm(
            channels,
            epsilon=1e-5,
            use_fast_variance=False,
            dtype=self.dtype,
            rngs=self.rngs,
        )

    def linear(self, inputs: int, outputs: int) -> nnx.Linear:
        return nnx.Linear(
            inputs,
            outputs,
            kernel_init=normal_init,
            dtype=self.dtype,
            rngs=self.rngs,
        )

    def conv(
        self,
        inputs: int,
        outputs: int,
        size: int = 1,
        *,
        stride: int = 1,
        use_bias: bool = True,
    ) -> Conv:
        return Conv(
            inputs,
            outputs,
            size,
            stride=stride,
            use_bias=use_bias,
            kernel_init=torch_uniform,
            bias_init=torch_bias(inputs * size**2),
            dtype=self.dtype,
            rngs=self.rngs,
        )

    def depthwise(
        self, channels: int, *, stride: int = 1, use_bias: bool = True
    ) -> "Depthwise":
        return Depthwise(
            channels, stride=stride, use_bias=use_bias, dtype=self.dtype, rngs=self.rngs
        )


def torch_bias(fan_in: int):
    """Return torch's initializer for the bias of a convolution."""

    def init(key, shape, dtype):
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Depthwise(nnx.Module):
    """A 3x3 convolution of each channel by itself; `kernel` is (3, 3, 1, C)."""

    def __init__(self, channels: int, *, stride: int, use_bias: bool, dtype, rngs):
        kernel = torch_uniform(rngs.params(), (3, 3, 1, channels), jnp.float32)
        self.kernel = nnx.Param(kernel)
        self.use_bias = use_bias
        if use_bias:
            bias = torch_bias(9)(rngs.params(), (channels,), jnp.float32)
            self.bias = nnx.Param(bias)
        self.stride = stride
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (B, H, W, C) to (B, ceil(H / stride), ceil(W / stride), C)."""
        kernel = self.kernel[...].astype(self.dtype)
        y = depthwise_conv(x.astype(self.dtype), kernel, self.stride)
        return y + self.bias[...].astype(self.dtype) if self.use_bias else y


class SqueezeExcitation(nnx.Module):
    """A factor for each channel from the means of all channels (Hu et al. 2018).

    As in MobileNetV3: a quarter of the channels in between, in multiples of 8, ReLU,
    and a hard sigmoid. The mean is over the whole map, padding included.
    """

    def __init__(self, channels: int, layers: Layers):
        squeezed = to_multiple(channels // 4, 8)
        self.fc1 = layers.conv(channels, squeezed)
        self.fc2 = layers.conv(squeezed, channels)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (B, H, W, C) to the same shape."""
        mean = x.mean((1, 2), keepdims=True, dtype=jnp.float32).astype(x.dtype)
        return x * jax.nn.hard_sigmoid(self.fc2(jax.nn.relu(self.fc1(mean))))


class PooledShortcut(nnx.Module):
    """The shortcut where the shape changes: the maxima of 3x3 places, then a 1x1."""

    def __init__(self, inputs: int, outputs: int, stride: int, layers: Layers):
        self.conv = layers.conv(inputs, outputs)
        self.stride = stride

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (B, H, W, in) to (B, ceil(H / stride), ceil(W / stride), out)."""
        return self.conv(pool(x, self.stride))


def pool(x: jax.Array, stride: int) -> jax.Array:
    """Return the maxima of 3x3 places, (B, ceil(H / stride), ceil(W / stride), C)."""
    return dense_max_pool(x) if stride == 1 else max_pool(x)


def gelu(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=False)


def to_multiple(value: float, divisor: int) -> int:
    """Return the multiple of `divisor` next to `value`, at least 0.9 of it.

    MobileNet's rule for numbers of channels.

    >>> to_multiple(12, 8), to_multiple(6, 8), to_multiple(11, 8)
    (16, 8, 16)
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * value else rounded + divisor
