"""ResNet-18, 34 and 50: the backbones of most of the paper's tables.

He et al. 2016, as torchvision builds them: the stride of a bottleneck stands in its 3x3
convolution ("V1.5"), and names follow torchvision's so that its weights map one to one.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from ..freezing import check_parts, freeze
from ..layers import BatchNorm, Conv
from ..ops.pooling import max_pool

# depth -> (bottleneck?, blocks in each of the four stages)
DEPTHS = {
    18: (False, (2, 2, 2, 2)),
    34: (False, (3, 4, 6, 3)),
    50: (True, (3, 4, 6, 3)),
}


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, in_channels, channels, *, stride, norm, conv):
        out_channels = channels * self.expansion
        self.conv1 = conv(in_channels, channels, 3, stride=stride)
        self.bn1 = norm(channels)
        self.conv2 = conv(channels, channels, 3)
        self.bn2 = norm(channels)
        self.shortcut = make_shortcut(in_channels, out_channels, stride, norm, conv)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = jax.nn.relu(self.bn1(self.conv1(x), train=train))
        y = self.bn2(self.conv2(y), train=train)
        return jax.nn.relu(y + self.shortcut(x, train=train))


class Bottleneck(nnx.Module):
    """1x1, 3x3 (with the stride), 1x1 and a shortcut."""

    expansion = 4

    def __init__(self, in_channels, channels, *, stride, norm, conv):
        out_channels = channels * self.expansion
        self.conv1 = conv(in_channels, channels, 1)
        self.bn1 = norm(channels)
        self.conv2 = conv(channels, channels, 3, stride=stride)
        self.bn2 = norm(channels)
        self.conv3 = conv(channels, out_channels, 1)
        self.bn3 = norm(out_channels)
        self.shortcut = make_shortcut(in_channels, out_channels, stride, norm, conv)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = jax.nn.relu(self.bn1(self.conv1(x), train=train))
        y = jax.nn.relu(self.bn2(self.conv2(y), train=train))
        y = self.bn3(self.conv3(y), train=train)
        return jax.nn.relu(y + self.shortcut(x, train=train))


class Identity(nnx.Module):
    """The shortcut of a block that keeps its input's shape."""

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        del train
        return x


class Projection(nnx.Module):
    """The shortcut of a block that changes its input's shape."""

    def __init__(self, in_channels, out_channels, stride, norm, conv):
        self.conv = conv(in_channels, out_channels, 1, stride=stride)
        self.bn = norm(out_channels)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return self.bn(self.conv(x), train=train)


def make_shortcut(in_channels, out_channels, stride, norm, conv) -> nnx.Module:
    if stride == 1 and in_channels == out_channels:
        return Identity()
    return Projection(in_channels, out_channels, stride, norm, conv)


class ResNet(nnx.Module):
    """A ResNet without its classifier, for images of any size.

    Args:
      depth: 18, 34 or 50.
      width: multiplies every number of channels; 64 * width is rounded.
      norm: "frozen", "local" or "synced" (see `BatchNorm`).
      axis_name: the mesh axis of the replicas that "synced" averages over.
      dtype: what the activations are computed in.
      rngs: keys for the initial weights.

    Raises:
      ValueError: unknown depth or norm, or a width that leaves no channel.
    """

    def __init__(
        self,
        depth: int,
        *,
        width: float = 1.0,
        norm: str = "synced",
        axis_name: str | tuple[str, ...] | None = None,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        if depth not in DEPTHS:
            raise ValueError(f"no ResNet of depth {depth}; there are {sorted(DEPTHS)}")
        stem = round(64 * width)
        if stem < 1:
            raise ValueError(f"width {width} leaves no channels; take at least 1/64")

        def make_conv(*args, **kwargs):
            return Conv(*args, dtype=dtype, rngs=rngs, **kwargs)

        def make_norm(channels):
            return BatchNorm(channels, mode=norm, axis_name=axis_name)

        bottleneck, blocks = DEPTHS[depth]
        block = Bottleneck if bottleneck else BasicBlock
        self.conv1 = make_conv(3, stem, 7, stride=2)
        self.bn1 = make_norm(stem)
        channels = stem
        stages, widths = [], []
        for index, count in enumerate(blocks):
            stage = []
            for position in range(count):
                stride = 2 if index > 0 and position == 0 else 1
                inner = stem * 2**index
                stage.append(
                    block(
                        channels, inner, stride=stride, norm=make_norm, conv=make_conv
                    )
                )
                channels = inner * block.expansion
            stages.append(nnx.List(stage))
            widths.append(channels)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.widths = tuple(widths)

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each output: {"c2": ..., "c3": ..., "c4": ..., "c5": ...}."""
        return {f"c{i}": width for i, width in enumerate(self.widths, start=2)}

    def freeze(self, parts: int) -> None:
        """Keep the first parts as they are: 1 the stem, 2 the first stage as well.

        Raises:
          ValueError: there are not as many.
        """
        check_parts(parts)
        stages = (self.layer1, self.layer2, self.layer3, self.layer4)
        if parts:
            freeze((self.conv1, self.bn1, *stages[: parts - 1]))

    def __call__(
        self, images: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """Map (B, H, W, 3) to {"c2".."c5"}: (B, ceil(H / 2^i), ceil(W / 2^i), C_i).

        Args:
          images: normalised.
          train: BatchNorm uses the batch's own statistics and keeps account of them.
          key: not needed, nothing is left to chance; every backbone takes one.
        """
        del key
        x = max_pool(jax.nn.relu(self.bn1(self.conv1(images), train=train)))
        features = {}
        stages = (self.layer1, self.layer2, self.layer3, self.layer4)
        for level, stage in enumerate(stages, start=2):
            for block in stage:
                x = block(x, train=train)
            features[f"c{level}"] = x
        return features
