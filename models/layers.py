"""Convolution and batch normalisation as the detectors use them (NHWC).

Weights and statistics are float32; `dtype` is what the arithmetic of the activations is
done in. Padding is always `kernel_size // 2`, as in every network we follow, so a layer
of stride s maps a side of n pixels to ceil(n / s).
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from .ops.batch_norm import batch_norm
from .ops.conv import conv2d

NORM_MODES = ("frozen", "local", "synced")

# He et al. 2015, by fan-out: what torchvision's ResNets start from.
kaiming_normal = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
# Uniform of variance 1 / fan-in (torch's kaiming_uniform_ with a=1): torchvision's FPN.
kaiming_uniform = nnx.initializers.variance_scaling(1.0, "fan_in", "uniform")


class Conv(nnx.Module):
    """A square convolution over NHWC with 'same' padding of `kernel_size // 2`.

    `kernel` is (k, k, in, out), k odd. With `out_dtype` float32 what comes out is not
    rounded to `dtype`; boxes and scores are read from such layers. See `conv2d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        use_bias: bool = False,
        kernel_init=kaiming_normal,
        bias_init=nnx.initializers.zeros,
        dtype=jnp.float32,
        out_dtype=None,
        rngs: nnx.Rngs,
    ):
        shape = (kernel_size, kernel_size, in_channels, out_channels)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, jnp.float32))
        self.use_bias = use_bias
        if use_bias:
            bias = bias_init(rngs.params(), (out_channels,), jnp.float32)
            self.bias = nnx.Param(bias)
        self.kernel_size = kernel_size
        self.stride = stride
        self.dtype = dtype
        self.out_dtype = dtype if out_dtype is None else out_dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (B, H, W, in) to (B, ceil(H / stride), ceil(W / stride), out)."""
        kernel = self.kernel[...].astype(self.dtype)
        y = conv2d(x.astype(self.dtype), kernel, self.stride, self.out_dtype)
        if self.use_bias:
            y = y + self.bias[...].astype(self.out_dtype)
        return y


class BatchNorm(nnx.Module):
    """Normalise each channel over batch and space; float32 statistics.

    * "synced": statistics of all replicas on `axis_name` (of this one when it is None);
    * "local": each replica's own; the running averages are still averaged over
      `axis_name`, so that the model state stays the same on every replica;
    * "frozen": a constant affine map. Its four vectors are model state, not parameters:
      no optimizer and no variance statistic ever sees them.

    Running averages follow torch: `momentum` is the share kept (torch's 0.1 is our 0.9)
    and the running variance is the unbiased one.

    Raises:
      ValueError: `mode` is not one of `NORM_MODES`.
    """

    def __init__(
        self,
        channels: int,
        *,
        mode: str = "synced",
        axis_name: str | tuple[str, ...] | None = None,
        momentum: float = 0.9,
        eps: float = 1e-5,
    ):
        if mode not in NORM_MODES:
            raise ValueError(f"norm mode {mode!r} is not one of {NORM_MODES}")
        affine = nnx.BatchStat if mode == "frozen" else nnx.Param
        self.scale = affine(jnp.ones((channels,), jnp.float32))
        self.bias = affine(jnp.zeros((channels,), jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros((channels,), jnp.float32))
        self.var = nnx.BatchStat(jnp.ones((channels,), jnp.float32))
        self.mode = mode
        self.axis_name = axis_name
        self.momentum = momentum
        self.eps = eps

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Normalise (B, H, W, C); `train`: by the batch, and update the averages."""
        scale, bias = self.scale[...], self.bias[...]
        if self.mode == "frozen" or not train:
            scale = scale * lax.rsqrt(self.var[...] + self.eps)
            bias = bias - self.mean[...] * scale
            # In float32 and rounded once, as in training: coefficients that were
            # rounded first would move a channel by the same amount everywhere.
            return (x.astype(jnp.float32) * scale + bias).astype(x.dtype)
        sync_axis = self.axis_name if self.mode == "synced" else None
        y, mean, var = batch_norm(x, scale, bias, self.eps, sync_axis)
        count = x.size // x.shape[-1]
        if self.axis_name is not None:
            if self.mode == "local":
                mean, var = lax.pmean((mean, var), self.axis_name)
            else:
                count = count * lax.axis_size(self.axis_name)
        var = var * (count / max(count - 1, 1))
        keep = self.momentum
        self.mean[...] = keep * self.mean[...] + (1 - keep) * mean
        self.var[...] = keep * self.var[...] + (1 - keep) * var
        return y
