"""What stands between the stages of UniNet: down-sampling modules (Liu et al. 2022).

The local one sees 3x3 places, the local-global one asks the whole map by attention. A
third of the paper, global alone, is in none of the networks it found.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from .uninet_layers import Layers, pool


class LocalDownsampling(nnx.Module):
    """Depthwise 3x3, norm, 1x1, beside a pooled shortcut.

    Args:
      inputs: channels.
      outputs: channels.
      stride: 1 or 2; with 1 nothing is pooled.
      layers: makes the layers.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int, layers: Layers):
        self.shortcut = layers.conv(inputs, outputs)
        self.query = LocalQuery(inputs, outputs, stride, layers)
        self.stride = stride

    def __call__(
        self, x: jax.Array, constants: None = None, *, train: bool
    ) -> jax.Array:
        """Map (B, H, W, in) to (B, ceil(H / stride), ceil(W / stride), out).

        Args:
          x: (B, H, W, in).
          constants: not looked at; there is nothing to leave out.
          train: for the norms.
        """
        del constants
        shortcut = self.shortcut(x if self.stride == 1 else pool(x, self.stride))
        return self.query(x, train=train) + shortcut


class LocalGlobalDownsampling(nnx.Module):
    """Attention of local queries to all places of the map, beside a pooled shortcut.

    Args:
      inputs: channels.
      outputs: channels, a multiple of `head_channels`.
      stride: 1 or 2; with 1 nothing is pooled.
      head_channels: channels of a head.
      layers: makes the layers.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        stride: int,
        head_channels: int,
        layers: Layers,
    ):
        self.shortcut = layers.conv(inputs, outputs)
        self.query = LocalQuery(inputs, outputs, stride, layers)
        self.query_norm = layers.layer_norm(outputs)
        self.norm = layers.layer_norm(inputs)
        self.kv = layers.linear(inputs, 2 * outputs)
        self.proj = layers.linear(outputs, outputs)
        self.heads = outputs // head_channels
        self.stride = stride

    def __call__(
        self, x: jax.Array, constants: None = None, *, train: bool
    ) -> jax.Array:
        """Map (B, H, W, in) to (B, ceil(H / stride), ceil(W / stride), out).

        Args:
          x: (B, H, W, in).
          constants: not looked at; there is nothing to leave out.
          train: for the norms.
        """
        del constants
        shortcut = self.shortcut(x if self.stride == 1 else pool(x, self.stride))
        q = self.query_norm(self.query(x, train=train))
        kv = self.kv(self.norm(x)).reshape(
            x.shape[0], -1, 2, self.heads, self._per_head(q)
        )
        k, v = jnp.moveaxis(kv, 2, 0)
        heads = q.reshape(x.shape[0], -1, self.heads, self._per_head(q))
        y = jax.nn.dot_product_attention(heads, k, v)
        return self.proj(y.reshape(q.shape)) + shortcut

    def _per_head(self, q: jax.Array) -> int:
        return q.shape[-1] // self.heads


class LocalQuery(nnx.Module):
    """Depthwise 3x3 with the stride, norm, 1x1."""

    def __init__(self, inputs: int, outputs: int, stride: int, layers: Layers):
        self.conv = layers.depthwise(inputs, stride=stride)
        self.norm = layers.batch_norm(inputs)
        self.project = layers.conv(inputs, outputs)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return self.project(self.norm(self.conv(x), train=train))
