"""The feature pyramid: one map of equal channels for each scale of objects.

Lin et al. 2017, with torchvision's two ways of adding coarser levels. Module names:
`lateral` are its inner blocks, `output` its layer blocks.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from .layers import Conv, kaiming_uniform
from .ops.repetition import upsample

EXTRA_LEVELS = ("c5", "p5", "max_pool")


class FPN(nnx.Module):
    """P_first..P5 from C_first..C5 and the coarser levels above.

    Args:
      channels: channels of the backbone's outputs, {"c2": ..., ..., "c5": ...}.
      out_channels: channels of every level.
      first_level: 3 for RetinaNet, 2 for the R-CNNs.
      extra: "c5" or "p5": P6 is a strided 3x3 convolution of that map and P7 one of
        relu(P6) (RetinaNet); "max_pool": P6 is every second pixel of P5 (R-CNN).
      dtype: what the activations are computed in.
      rngs: keys for the initial weights.

    Raises:
      ValueError: unknown `extra`, or a level that the backbone does not have.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        out_channels: int = 256,
        *,
        first_level: int = 3,
        extra: str = "c5",
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        if extra not in EXTRA_LEVELS:
            raise ValueError(f"extra levels {extra!r} are not one of {EXTRA_LEVELS}")
        sources = [f"c{level}" for level in range(first_level, 6)]
        if not sources or any(source not in channels for source in sources):
            raise ValueError(
                f"first_level {first_level} needs {sources} of a backbone that gives "
                f"{list(channels)}"
            )

        def make_conv(inputs, size, stride=1):
            return Conv(
                inputs,
                out_channels,
                size,
                stride=stride,
                use_bias=True,
                kernel_init=kaiming_uniform,
                dtype=dtype,
                rngs=rngs,
            )

        self.lateral = nnx.List([make_conv(channels[source], 1) for source in sources])
        self.output = nnx.List([make_conv(out_channels, 3) for _ in sources])
        if extra != "max_pool":
            inputs = channels["c5"] if extra == "c5" else out_channels
            self.p6 = make_conv(inputs, 3, stride=2)
            self.p7 = make_conv(out_channels, 3, stride=2)
        self.first_level = first_level
        self.out_channels = out_channels
        self.extra = extra

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the outputs, finest first."""
        last = 6 if self.extra == "max_pool" else 7
        return tuple(f"p{level}" for level in range(self.first_level, last + 1))

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image that a cell of each level stands for, each way."""
        first = self.first_level
        return tuple(2**level for level in range(first, first + len(self.levels)))

    def __call__(self, features: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Map {"c2".."c5"} to {level: (B, ceil(H / 2^i), ceil(W / 2^i), out)}."""
        pyramid = {}
        inner = None
        for index in reversed(range(len(self.lateral))):
            level = self.first_level + index
            lateral = self.lateral[index](features[f"c{level}"])
            if inner is not None:
                lateral = lateral + upsample(inner, lateral.shape[1:3])
            inner = lateral
            pyramid[f"p{level}"] = self.output[index](inner)
        if self.extra == "max_pool":
            pyramid["p6"] = pyramid["p5"][:, ::2, ::2]
        else:
            source = features["c5"] if self.extra == "c5" else pyramid["p5"]
            pyramid["p6"] = self.p6(source)
            pyramid["p7"] = self.p7(jax.nn.relu(pyramid["p6"]))
        return {level: pyramid[level] for level in self.levels}
