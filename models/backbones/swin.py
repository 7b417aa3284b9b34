"""Swin Transformers T, S, B and L: attention in windows, for images of any size.

Liu et al. 2021 ("Swin Transformer: Hierarchical Vision Transformer using Shifted
Windows"), as torchvision builds them for classification and the authors' detector uses
them: each of the four stages has a LayerNorm of its own on what it hands to the
pyramid. Nothing depends on the size of the image: positions are relative, and maps are
padded to whole patches and windows.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from ..drop_path import branch_gains, rising_rates, scale
from ..freezing import check_parts, freeze
from ..ops.windows import (
    crossings,
    from_windows,
    relative_positions,
    to_windows,
    window_attention,
)

# size -> (heads of the first stage, blocks in each of the four stages); section 3.3.
# The heads double with the channels from stage to stage.
SIZES = {
    "t": (3, (2, 2, 6, 2)),
    "s": (3, (2, 2, 18, 2)),
    "b": (4, (2, 2, 18, 2)),
    "l": (6, (2, 2, 18, 2)),
}
HEAD_CHANNELS = 32
PATCH = 4
WINDOW = 7
MLP_RATIO = 4

# The authors truncate at 2, which is a hundred of these deviations.
normal_init = nnx.initializers.normal(0.02)


class Swin(nnx.Module):
    """A Swin Transformer without its classifier, for images of any size.

    Args:
      size: "t", "s", "b" or "l".
      width: multiplies every number of channels; 32 * width, the channels of a head, is
        rounded.
      drop_path: probability that a residual branch of the last block is left out of a
        sample in training; it rises linearly from 0 at the first block (Huang et al.
        2016, "Deep Networks with Stochastic Depth").
      dtype: what the activations are computed in.
      rngs: keys for the initial weights.

    Raises:
      ValueError: unknown size, a width that leaves no channel, or a probability outside
        [0, 1).
    """

    def __init__(
        self,
        size: str,
        *,
        width: float = 1.0,
        drop_path: float = 0.0,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        if size not in SIZES:
            raise ValueError(f"no Swin of size {size!r}; there are {sorted(SIZES)}")
        heads, blocks = SIZES[size]
        head_channels = round(HEAD_CHANNELS * width)
        if head_channels < 1:
            raise ValueError(f"width {width} leaves no channels; take at least 1/32")
        self.drop_rates = rising_rates(drop_path, sum(blocks))
        options = {"dtype": dtype, "rngs": rngs}
        self.widths = tuple(heads * head_channels * 2**stage for stage in range(4))
        self.patch_embed = PatchEmbed(self.widths[0], **options)
        stages = []
        for stage, (channels, count) in enumerate(
            zip(self.widths, blocks, strict=True)
        ):
            stages.append(
                nnx.List(
                    Block(
                        channels,
                        heads * 2**stage,
                        # Every second block's windows lie between the others'.
                        shift=WINDOW // 2 if index % 2 else 0,
                        **options,
                    )
                    for index in range(count)
                )
            )
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.merge2, self.merge3, self.merge4 = (
            PatchMerging(channels, **options) for channels in self.widths[:3]
        )
        self.norm1, self.norm2, self.norm3, self.norm4 = (
            make_norm(channels, **options) for channels in self.widths
        )
        self.blocks = blocks

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each output: {"c2": ..., "c3": ..., "c4": ..., "c5": ...}."""
        return {f"c{i}": width for i, width in enumerate(self.widths, start=2)}

    def freeze(self, parts: int) -> None:
        """Keep the first parts as they are: 1 the patches, 2 the first stage as well.

        As in mmdetection a stage includes the merging behind it, and leaves no branch
        out once it is frozen.

        Raises:
          ValueError: there are not as many.
        """
        check_parts(parts)
        if not parts:
            return
        stages = (
            (self.layer1, self.norm1, self.merge2),
            (self.layer2, self.norm2, self.merge3),
            (self.layer3, self.norm3, self.merge4),
            (self.layer4, self.norm4),
        )
        freeze((self.patch_embed, *(m for stage in stages[: parts - 1] for m in stage)))
        still = sum(self.blocks[: parts - 1])
        self.drop_rates = (0.0,) * still + self.drop_rates[still:]

    def __call__(
        self, images: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """Map (B, H, W, 3) to {"c2".."c5"}: (B, ceil(H / 2^i), ceil(W / 2^i), C_i).

        Args:
          images: normalised.
          train: leave out branches, as `drop_path` says.
          key: decides which; not needed otherwise.

        Raises:
          ValueError: a key is needed and there is none.
        """
        gains = branch_gains(self.drop_rates, len(images), key) if train else None
        stages = (self.layer1, self.layer2, self.layer3, self.layer4)
        merges = (None, self.merge2, self.merge3, self.merge4)
        norms = (self.norm1, self.norm2, self.norm3, self.norm4)
        x = self.patch_embed(images)
        features, depth = {}, 0
        for level, (stage, merge, norm) in enumerate(
            zip(stages, merges, norms, strict=True), start=2
        ):
            if merge is not None:
                x = merge(x)
            for block in stage:
                x = block(x, None if gains is None else gains[depth])
                depth += 1
            features[f"c{level}"] = norm(x)
        return features


class PatchEmbed(nnx.Module):
    """A linear map of each patch of 4 x 4 pixels, and a LayerNorm.

    `kernel` is (4, 4, 3, C), as a convolution's.
    """

    def __init__(self, channels: int, *, dtype, rngs):
        # torch's default for a convolution: uniform of variance 1 / (3 fan-in).
        init = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        shape = (PATCH, PATCH, 3, channels)
        self.kernel = nnx.Param(init(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros((channels,), jnp.float32))
        self.norm = make_norm(channels, dtype=dtype, rngs=rngs)
        self.dtype = dtype

    def __call__(self, images: jax.Array) -> jax.Array:
        """Map (B, H, W, 3) to (B, ceil(H / 4), ceil(W / 4), C)."""
        patches = to_windows(images.astype(self.dtype), PATCH, 0)
        patches = patches.reshape(*patches.shape[:3], -1)  # (B, h, w, 48)
        kernel = self.kernel[...].reshape(-1, self.kernel.shape[-1])
        x = patches @ kernel.astype(self.dtype) + self.bias[...].astype(self.dtype)
        return self.norm(x)


class PatchMerging(nnx.Module):
    """Four neighbours become one place of twice the channels; between two stages."""

    def __init__(self, channels: int, *, dtype, rngs):
        self.norm = make_norm(4 * channels, dtype=dtype, rngs=rngs)
        self.reduction = nnx.Linear(
            4 * channels,
            2 * channels,
            use_bias=False,
            kernel_init=normal_init,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (B, H, W, C) to (B, ceil(H / 2), ceil(W / 2), 2 C)."""
        four = to_windows(x, 2, 0)  # (B, h, w, 4, C), row by row
        # The weights that are published want them column by column.
        four = four.reshape(*four.shape[:3], 2, 2, -1).swapaxes(3, 4)
        return self.reduction(self.norm(four.reshape(*four.shape[:3], -1)))


class Block(nnx.Module):
    """Window attention, then a perceptron of two layers, each added to its input."""

    def __init__(self, channels: int, heads: int, *, shift: int, dtype, rngs):
        options = {"dtype": dtype, "rngs": rngs}
        self.norm1 = make_norm(channels, **options)
        self.attn = WindowAttention(channels, heads, shift=shift, **options)
        self.norm2 = make_norm(channels, **options)
        self.fc1 = make_linear(channels, MLP_RATIO * channels, **options)
        self.fc2 = make_linear(MLP_RATIO * channels, channels, **options)

    def __call__(self, x: jax.Array, gains: jax.Array | None) -> jax.Array:
        """Map (B, H, W, C) to the same shape.

        Args:
          x: (B, H, W, C).
          gains: (2, B), what the branches of each sample are multiplied by, or None.
        """
        x = x + scale(self.attn(self.norm1(x)), gains, 0)
        inner = jax.nn.gelu(self.fc1(self.norm2(x)), approximate=False)
        return x + scale(self.fc2(inner), gains, 1)


class WindowAttention(nnx.Module):
    """Multi-head attention within windows of 7 x 7, with a bias for each offset.

    `bias_table` is (13 * 13, heads), see `relative_positions`.
    """

    def __init__(self, channels: int, heads: int, *, shift: int, dtype, rngs):
        self.qkv = make_linear(channels, 3 * channels, dtype=dtype, rngs=rngs)
        self.proj = make_linear(channels, channels, dtype=dtype, rngs=rngs)
        shape = ((2 * WINDOW - 1) ** 2, heads)
        self.bias_table = nnx.Param(normal_init(rngs.params(), shape, jnp.float32))
        self.shift = shift

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (B, H, W, C) to the same shape."""
        size = x.shape[1:3]
        bias = jnp.moveaxis(self.bias_table[...][relative_positions(WINDOW)], -1, 0)
        qkv = self.qkv(to_windows(x, WINDOW, self.shift))
        y = window_attention(qkv, bias, crossings(size, WINDOW, self.shift))
        return from_windows(self.proj(y), size, WINDOW, self.shift)


def make_linear(inputs: int, outputs: int, *, dtype, rngs) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, kernel_init=normal_init, dtype=dtype, rngs=rngs)


def make_norm(channels: int, *, dtype, rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(
        channels, epsilon=1e-5, use_fast_variance=False, dtype=dtype, rngs=rngs
    )
