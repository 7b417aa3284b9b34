"""The convolutional blocks of UniNet: inverted bottlenecks that begin with the norm.

MBConv is DWConvBlock of the released UniNet and MBConv3x3 of the released MetaNet,
which are the same; FusedMBConv is MetaNet's FusedMBConv3x3. Differences to Sandler et
al. 2018 (MobileNetV2) and Tan and Le 2021 (EfficientNetV2): a norm in front, GELU, the
hard sigmoid in squeeze and excitation, the last norm of scale 0, and a shortcut that
pools where the shape changes.
"""

import jax
from flax import nnx

from ..drop_path import scale
from .uninet_layers import Layers, PooledShortcut, SqueezeExcitation, gelu


class MBConv(nnx.Module):
    """1x1 to the hidden channels, depthwise 3x3, squeeze and excitation, 1x1.

    The first 1x1 is left out where it would change nothing: hidden channels as many as
    come in, and no stride.

    Args:
      inputs: channels.
      outputs: channels.
      stride: 1 or 2, in the depthwise convolution.
      expansion: hidden channels over `inputs`, rounded down.
      layers: makes the layers.
    """

    def __init__(
        self, inputs: int, outputs: int, *, stride: int, expansion: float, layers
    ):
        hidden = int(inputs * expansion)
        self.shortcut = make_shortcut(inputs, outputs, stride, layers)
        expands = inputs != hidden or stride != 1
        self.expand = Expansion(inputs, hidden, 1, 1, layers) if expands else None
        self.conv = layers.depthwise(hidden, stride=stride, use_bias=False)
        self.norm = layers.batch_norm(hidden)
        self.se = SqueezeExcitation(hidden, layers)
        self.project = layers.conv(hidden, outputs)
        self.last_norm = layers.batch_norm(outputs, zero=True)

    def __call__(
        self, x: jax.Array, gains: jax.Array | None = None, *, train: bool
    ) -> jax.Array:
        """Map (B, H, W, in) to (B, ceil(H / stride), ceil(W / stride), out).

        Args:
          x: (B, H, W, in).
          gains: (2, B), the first row is what the branch of each sample is multiplied
            by, or None.
          train: for the norms.
        """
        y = x if self.expand is None else self.expand(x, train=train)
        y = self.se(gelu(self.norm(self.conv(y), train=train)))
        y = self.last_norm(self.project(y), train=train)
        return _shortcut(self.shortcut, x) + scale(y, gains, 0)


class FusedMBConv(nnx.Module):
    """3x3 to the hidden channels, squeeze and excitation, 1x1.

    Where the hidden channels are as many as come in: squeeze and excitation, then one
    3x3. The arguments are those of `MBConv`.
    """

    def __init__(
        self, inputs: int, outputs: int, *, stride: int, expansion: float, layers
    ):
        hidden = int(inputs * expansion)
        self.shortcut = make_shortcut(inputs, outputs, stride, layers)
        self.se = SqueezeExcitation(hidden, layers)
        if inputs != hidden:
            self.expand = Expansion(inputs, hidden, 3, stride, layers)
            self.project = layers.conv(hidden, outputs)
        else:
            self.expand = None
            self.project = layers.conv(hidden, outputs, 3, stride=stride)
        self.last_norm = layers.batch_norm(outputs, zero=True)

    def __call__(
        self, x: jax.Array, gains: jax.Array | None = None, *, train: bool
    ) -> jax.Array:
        """Map (B, H, W, in) to (B, ceil(H / stride), ceil(W / stride), out)."""
        y = x if self.expand is None else self.expand(x, train=train)
        y = self.last_norm(self.project(self.se(y)), train=train)
        return _shortcut(self.shortcut, x) + scale(y, gains, 0)


class Expansion(nnx.Module):
    """Norm, convolution without bias, norm, GELU."""

    def __init__(
        self, inputs: int, outputs: int, size: int, stride: int, layers: Layers
    ):
        self.norm1 = layers.batch_norm(inputs)
        self.conv = layers.conv(inputs, outputs, size, stride=stride, use_bias=False)
        self.norm2 = layers.batch_norm(outputs)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = self.conv(self.norm1(x, train=train))
        return gelu(self.norm2(x, train=train))


def make_shortcut(
    inputs: int, outputs: int, stride: int, layers: Layers
) -> PooledShortcut | None:
    """Return what changes the shape beside a branch; None where nothing does."""
    if inputs == outputs and stride == 1:
        return None
    return PooledShortcut(inputs, outputs, stride, layers)


def _shortcut(shortcut: PooledShortcut | None, x: jax.Array) -> jax.Array:
    return x if shortcut is None else shortcut(x)
