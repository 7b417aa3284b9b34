"""The transformer blocks of UniNet, over all places of a map of any size.

`Attention` is softmax attention between places, quadratic in their number (UniNet, and
MetaNet's SABlock); `CrossCovariance` is attention between channels, linear in it (El-
Nouby et al. 2021, "XCiT"; MetaNet's Block). Positions come from a depthwise convolution
in front, so nothing depends on the size of the map. Padding is attended to like any
other place.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from ..drop_path import scale
from .uninet_layers import Layers, PooledShortcut, gelu, pool

LAYER_SCALE = 1e-6
# Of the norm that cross covariance divides by, as torch has it.
TINY = 1e-12


class TransformerBlock(nnx.Module):
    """A depthwise convolution, attention and a perceptron, each added to its input.

    Both branches are multiplied by a learned factor a channel that starts from 1e-6
    (Touvron et al. 2021, "CaiT"). Where the shape changes there is no perceptron and
    nothing is left out: attention over the pooled map is added to a pooled shortcut.

    Args:
      inputs: channels, a multiple of `head_channels`.
      outputs: channels.
      stride: 1 or 2.
      expansion: hidden channels of the perceptron over `inputs`, rounded down.
      head_channels: channels of a head.
      attention: `Attention` or `CrossCovariance`.
      layers: makes the layers.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        stride: int,
        expansion: float,
        head_channels: int,
        attention: type[nnx.Module],
        layers: Layers,
    ):
        self.position = layers.depthwise(inputs)
        self.norm1 = layers.layer_norm(inputs)
        self.attn = attention(inputs, outputs, inputs // head_channels, layers)
        self.gamma_1 = nnx.Param(jnp.full((outputs,), LAYER_SCALE, jnp.float32))
        self.stride = stride
        if stride != 1 or inputs != outputs:
            self.shortcut = PooledShortcut(inputs, outputs, stride, layers)
        else:
            self.shortcut = None
            hidden = int(inputs * expansion)
            self.norm2 = layers.layer_norm(inputs)
            self.fc1 = layers.linear(inputs, hidden)
            self.fc2 = layers.linear(hidden, inputs)
            self.gamma_2 = nnx.Param(jnp.full((outputs,), LAYER_SCALE, jnp.float32))

    def __call__(
        self, x: jax.Array, gains: jax.Array | None = None, *, train: bool
    ) -> jax.Array:
        """Map (B, H, W, in) to (B, ceil(H / stride), ceil(W / stride), out).

        Args:
          x: (B, H, W, in).
          gains: (2, B), what the branches of each sample are multiplied by, or None.
          train: not looked at; every block takes it.
        """
        del train
        x = x + self.position(x)
        if self.shortcut is not None:
            y = self.attn(pool(self.norm1(x), self.stride))
            return self.shortcut(x) + y * self.gamma_1[...].astype(y.dtype)
        y = self.attn(self.norm1(x))
        x = x + scale(y * self.gamma_1[...].astype(y.dtype), gains, 0)
        y = self.fc2(gelu(self.fc1(self.norm2(x))))
        return x + scale(y * self.gamma_2[...].astype(y.dtype), gains, 1)


class Attention(nnx.Module):
    """Softmax attention between all places of a map, in `heads` heads."""

    def __init__(self, inputs: int, outputs: int, heads: int, layers: Layers):
        self.qkv = layers.linear(inputs, 3 * inputs)
        self.proj = layers.linear(inputs, outputs)
        self.heads = heads

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (B, H, W, in) to (B, H, W, out)."""
        batch, height, width, channels = x.shape
        qkv = self.qkv(x).reshape(batch, height * width, 3, self.heads, -1)
        y = jax.nn.dot_product_attention(*jnp.moveaxis(qkv, 2, 0))
        return self.proj(y.reshape(batch, height, width, channels))


class CrossCovariance(nnx.Module):
    """Attention between the channels of a head: of their course over all places.

    Queries and keys have length 1 over the places; `temperature` is what their products
    are multiplied by, (heads, 1, 1).
    """

    def __init__(self, inputs: int, outputs: int, heads: int, layers: Layers):
        self.qkv = layers.linear(inputs, 3 * inputs)
        self.proj = layers.linear(inputs, outputs)
        self.temperature = nnx.Param(jnp.ones((heads, 1, 1), jnp.float32))
        self.heads = heads

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (B, H, W, in) to (B, H, W, out)."""
        batch, height, width, channels = x.shape
        qkv = self.qkv(x).reshape(batch, height * width, 3, self.heads, -1)
        q, k, v = jnp.moveaxis(qkv, 2, 0)  # (B, N, heads, d)
        # The lengths are applied to the products, which are few.
        products = jnp.einsum(
            "bnhc,bnhd->bhcd", q, k, preferred_element_type=jnp.float32
        )
        products = products * _inverse_length(q)[..., :, None]
        products = products * _inverse_length(k)[..., None, :]
        logits = products * self.temperature[...]
        weights = jax.nn.softmax(logits).astype(x.dtype)
        y = jnp.einsum("bhcd,bnhd->bnhc", weights, v)
        return self.proj(y.reshape(batch, height, width, channels))


def _inverse_length(x: jax.Array) -> jax.Array:
    """Return 1 / the length over places of (B, N, heads, d): (B, heads, d) float32."""
    square = jnp.square(x.astype(jnp.float32)).sum(axis=1)
    return jax.lax.rsqrt(jnp.maximum(square, TINY**2))
