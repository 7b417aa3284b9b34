"""UniNet-B0 to B6, and trunks of 30 million and a billion parameters of their family.

Published (Liu et al. 2022, "UniNet: Unified Architecture Search with Convolution,
Transformer, and MLP", and its released code): B0 to B6, their blocks, down-sampling
modules and numbers of parameters. The first two share one network, B1 is B0 on larger
images.

Our reading: AGVM's paper trains "UniNet extended to one billion parameters" and does
not say how. The same laboratory's MetaNet-B15 has blocks of the same code and a trunk
of 1000.46 million parameters; "1b" is that network, and "30m" its smaller sibling
MetaNet-B4 (29.93 million). Both are published with their sizes, as MetaNets; that they
are the ones of AGVM's paper is an inference from the number and the authors.

The released code works on square maps of one size; here maps have any size, and padding
is attended to.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from ..drop_path import branch_gains, rising_rates
from ..freezing import check_parts, freeze
from ..stack import Sequence, Stack, call
from .uninet_attention import Attention, CrossCovariance, TransformerBlock
from .uninet_convolutions import FusedMBConv, MBConv
from .uninet_downsampling import LocalDownsampling, LocalGlobalDownsampling
from .uninet_layers import Layers, gelu
from .uninet_sizes import SIZES, Architecture

# Of the six stages, behind a stem of stride 2.
STRIDES = (1, 2, 2, 2, 1, 2)
EXPANSIONS = (1, 4, 6, 3, 2, 5)
# The stage whose output each level of a pyramid is, and the parts that may be frozen.
OUTPUTS = {"c2": 1, "c3": 2, "c4": 4, "c5": 5}


class UniNet(nnx.Module):
    """A UniNet without its classifier, for images of any size.

    Blocks that are equal are one scan (`models/stack.py`); the stem, down-sampling
    modules and a stage's first block where its shape differs stand by themselves.

    Args:
      size: "b0" to "b6", "30m" or "1b"; or another network of the family.
      width: multiplies every number of channels; those of a head, and of convolutional
        stages, are rounded.
      norm: "frozen", "local" or "synced" (see `BatchNorm`). The last norm of a
        convolutional block starts from scale 0, so "frozen" is for weights that come
        from a file.
      axis_name: the mesh axis of the replicas that "synced" averages over.
      drop_path: probability that a residual branch of the last block is left out of a
        sample in training; it rises linearly from 0 at the first block.
      stacked: equal blocks are one scan; otherwise each is compiled for itself.
      remat: the backward pass computes blocks again and keeps their inputs alone.
      dtype: what the activations are computed in.
      rngs: keys for the initial weights.

    Raises:
      ValueError: unknown size or norm, a width that leaves no channel, or a probability
        outside [0, 1).
    """

    def __init__(
        self,
        size: str | Architecture,
        *,
        width: float = 1.0,
        norm: str = "synced",
        axis_name: str | tuple[str, ...] | None = None,
        drop_path: float = 0.0,
        stacked: bool = True,
        remat: bool = True,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        if isinstance(size, str) and size not in SIZES:
            raise ValueError(f"no UniNet of size {size!r}; there are {sorted(SIZES)}")
        net = _widened(SIZES[size] if isinstance(size, str) else size, width)
        layers = Layers(norm, axis_name, dtype, rngs)
        self.drop_rates = rising_rates(drop_path, sum(net.repeats))
        self.repeats, self.widths = net.repeats, net.channels
        self.stem = Stem(net.stem, layers)
        inputs, stages = net.stem, []
        for index, outputs in enumerate(net.channels):
            stage = Stage(net, index, inputs, layers, stacked=stacked, remat=remat)
            stages.append(stage)
            inputs = outputs
        self.stage1, self.stage2, self.stage3 = stages[:3]
        self.stage4, self.stage5, self.stage6 = stages[3:]

    @property
    def stages(self) -> tuple["Stage", ...]:
        """The six stages, first to last."""
        return (
            *(self.stage1, self.stage2, self.stage3),
            *(self.stage4, self.stage5, self.stage6),
        )

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each output: {"c2": ..., "c3": ..., "c4": ..., "c5": ...}."""
        return {level: self.widths[stage] for level, stage in OUTPUTS.items()}

    def freeze(self, parts: int) -> None:
        """Keep the first parts as they are: 1 the stem, then up to each output.

        The parts end with the stem and with the outputs, 2 with the second stage and 4
        with the fifth; nothing is left out of what is frozen.

        Raises:
          ValueError: there are not as many.
        """
        check_parts(parts)
        if not parts:
            return
        ends = (0, *(stage + 1 for stage in OUTPUTS.values()))
        count = ends[parts - 1]
        freeze((self.stem, *self.stages[:count]))
        still = sum(self.repeats[:count])
        self.drop_rates = (0.0,) * still + self.drop_rates[still:]

    def __call__(
        self, images: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """Map (B, H, W, 3) to {"c2".."c5"}: (B, ceil(H / 2^i), ceil(W / 2^i), C_i).

        Args:
          images: normalised.
          train: BatchNorm uses the batch's own statistics, drop path leaves branches
            out.
          key: decides which; not needed otherwise.

        Raises:
          ValueError: a key is needed and there is none.
        """
        gains = branch_gains(self.drop_rates, len(images), key) if train else None
        x = self.stem(images, train=train)
        outputs, depth = [], 0
        for stage, count in zip(self.stages, self.repeats, strict=True):
            own = None if gains is None else gains[depth : depth + count]
            x = stage(x, own, train=train)
            outputs.append(x)
            depth += count
        return {level: outputs[stage] for level, stage in OUTPUTS.items()}


class Stem(nnx.Module):
    """A 3x3 convolution of stride 2, norm, GELU."""

    def __init__(self, channels: int, layers: Layers):
        self.conv = layers.conv(3, channels, 3, stride=2, use_bias=False)
        self.norm = layers.batch_norm(channels)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Map (B, H, W, 3) to (B, ceil(H / 2), ceil(W / 2), C)."""
        return gelu(self.norm(self.conv(x), train=train))


class Stage(nnx.Module):
    """A down-sampling module if there is one, a first block if it differs, the rest.

    Args:
      net: the network.
      index: of the stage, from 0.
      inputs: channels.
      layers: makes the layers.
      stacked: see `UniNet`.
      remat: see `UniNet`.
    """

    def __init__(
        self,
        net: Architecture,
        index: int,
        inputs: int,
        layers: Layers,
        *,
        stacked: bool,
        remat: bool,
    ):
        outputs, stride, count = net.channels[index], STRIDES[index], net.repeats[index]
        self.remat = remat
        down = first = rest = None
        if net.modules and index:
            down = make_module(net, index, inputs, layers)
            inputs, stride = outputs, 1
        if inputs != outputs or stride != 1:
            first = make_block(net, index, inputs, stride)(layers)
            count -= 1
        if count:
            make = make_block(net, index, outputs, 1)
            kind = Stack if stacked else Sequence
            rest = kind(
                lambda rngs: make(dataclasses.replace(layers, rngs=rngs)),
                count,
                remat=remat,
                rngs=layers.rngs,
            )
        self.down, self.first, self.rest = down, first, rest

    def __call__(
        self, x: jax.Array, gains: jax.Array | None, *, train: bool
    ) -> jax.Array:
        """Map (B, H, W, in) to (B, ceil(H / stride), ceil(W / stride), out).

        Args:
          x: (B, H, W, in).
          gains: (blocks, 2, B), what each sample's branches are multiplied by, or None.
          train: for norms.
        """
        options = {"train": train, "remat": self.remat}
        if self.down is not None:
            x = call(self.down, x, None, **options)
        if self.first is not None:
            own = None if gains is None else gains[0]
            gains = None if gains is None else gains[1:]
            x = call(self.first, x, own, **options)
        return x if self.rest is None else self.rest(x, gains, train=train)


def make_block(
    net: Architecture, index: int, inputs: int, stride: int
) -> Callable[[Layers], nnx.Module]:
    """Return what makes a block of a stage from its layers."""
    shape = {"stride": stride, "expansion": EXPANSIONS[index]}
    outputs, kind = net.channels[index], net.blocks[index]
    if kind in ("mb", "fused"):
        block = MBConv if kind == "mb" else FusedMBConv
        return lambda layers: block(inputs, outputs, layers=layers, **shape)
    shape["head_channels"] = net.head_channels
    shape["attention"] = Attention if kind == "attention" else CrossCovariance
    return lambda layers: TransformerBlock(inputs, outputs, layers=layers, **shape)


def make_module(
    net: Architecture, index: int, inputs: int, layers: Layers
) -> nnx.Module:
    """Return the down-sampling module in front of a stage."""
    options = {"stride": STRIDES[index], "layers": layers}
    if net.blocks[index] == "mb":
        return LocalDownsampling(inputs, net.channels[index], **options)
    return LocalGlobalDownsampling(
        inputs, net.channels[index], head_channels=net.head_channels, **options
    )


def _widened(net: Architecture, width: float) -> Architecture:
    """Multiply every number of channels; heads stay as many as they are."""
    head_channels = round(net.head_channels * width)

    def widen(channels, block):
        if block in ("mb", "fused"):
            return round(channels * width)
        return channels // net.head_channels * head_channels

    channels = tuple(map(widen, net.channels, net.blocks))
    stem = round(net.stem * width)
    if min(*channels, stem) < 1:
        raise ValueError(f"width {width} leaves no channels; take at least 1/32")
    return net._replace(channels=channels, stem=stem, head_channels=head_channels)
