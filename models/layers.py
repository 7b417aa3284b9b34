"""Convolution, batch normalisation and pooling as the detectors use them (NHWC).

Weights and statistics are float32; `dtype` is what the arithmetic of the activations is
done in. Padding is always `kernel_size // 2`, as in every network we follow, so a layer
of stride s maps a side of n pixels to ceil(n / s).
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

NORM_MODES = ("frozen", "local", "synced")

# He et al. 2015, by fan-out: what torchvision's ResNets start from.
kaiming_normal = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
# Uniform of variance 1 / fan-in (torch's kaiming_uniform_ with a=1): torchvision's FPN.
kaiming_uniform = nnx.initializers.variance_scaling(1.0, "fan_in", "uniform")


class Conv(nnx.Module):
    """A square convolution over NHWC with 'same' padding of `kernel_size // 2`.

    `kernel` is (k, k, in, out). A 1x1 convolution is computed as a matrix product: the
    same thing to GPU and TPU compilers, and five times faster on the CPU.
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

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (B, H, W, in) to (B, ceil(H / stride), ceil(W / stride), out)."""
        y = conv2d(
            x.astype(self.dtype), self.kernel[...].astype(self.dtype), self.stride
        )
        if self.use_bias:
            y = y + self.bias[...].astype(self.dtype)
        return y


def conv2d(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Convolve (B, H, W, in) with (k, k, in, out), padded by `k // 2`."""
    size = kernel.shape[0]
    if size == 1:
        return lax.dot_general(
            x[:, ::stride, ::stride], kernel[0, 0], (((3,), (0,)), ((), ()))
        )
    pad = (size // 2, size // 2)
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        (pad, pad),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


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
        axis_name: str | None = None,
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
            return x * scale.astype(x.dtype) + bias.astype(x.dtype)
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def batch_norm(x, scale, bias, eps, axis_name):
    """Normalise x (B, H, W, C) by its own statistics; return (y, mean, variance).

    The statistics are those of all replicas on `axis_name`, from the means of x and of
    x * x, and take no gradient. The backward pass is written out because automatic
    differentiation walks over the activations several times more. Its two sums are
    averaged over the replicas as well: a replica's activations move every replica's
    loss. The gradients of scale and bias stay the replica's own.
    """
    return _batch_norm_forward(x, scale, bias, eps, axis_name)[0]


def _batch_norm_forward(x, scale, bias, eps, axis_name):
    x32 = x.astype(jnp.float32)
    mean, square = _pmean((x32.mean((0, 1, 2)), (x32 * x32).mean((0, 1, 2))), axis_name)
    var = jnp.maximum(square - mean * mean, 0.0)
    inverse = lax.rsqrt(var + eps)
    factor = inverse * scale
    y = (x32 * factor + (bias - mean * factor)).astype(x.dtype)
    return (y, mean, var), (x, scale, mean, inverse)


def _batch_norm_backward(eps, axis_name, residuals, cotangents):
    del eps
    x, scale, mean, inverse = residuals
    dy = cotangents[0].astype(jnp.float32)
    x32 = x.astype(jnp.float32)
    count = x.size // x.shape[-1]
    dbias = dy.sum((0, 1, 2))
    dscale = ((dy * x32).sum((0, 1, 2)) - mean * dbias) * inverse
    mean_dy, mean_dy_xhat = _pmean((dbias / count, dscale / count), axis_name)
    # dx = scale / std * (dy - mean(dy) - xhat * mean(dy * xhat)), gathered by dy, x, 1.
    factor = scale * inverse
    slope = factor * inverse * mean_dy_xhat
    dx = factor * dy - slope * x32 + (slope * mean - factor * mean_dy)
    return dx.astype(x.dtype), dscale, dbias


batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


def _pmean(tree, axis_name):
    """Average over the replicas: before, each holds its own; after, all the same."""
    return tree if axis_name is None else lax.pmean(tree, axis_name)


def max_pool(x: jax.Array) -> jax.Array:
    """Take the maximum over 3x3 windows with stride 2 and padding 1 (the ResNet stem).

    On the CPU it is the maximum of nine strided slices: the gradient of
    `reduce_window` is a select-and-scatter, six times slower there. Where several
    elements of a window are equal the gradient is shared between them; after a ReLU
    the only ties that occur in practice are zeros, whose gradient the ReLU drops.
    """
    _, height, width, _ = x.shape
    low = jnp.finfo(x.dtype).min
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=low)
    slices = [
        padded[:, i : i + height : 2, j : j + width : 2]
        for i in range(3)
        for j in range(3)
    ]
    return functools.reduce(jnp.maximum, slices)
