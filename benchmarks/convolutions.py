"""Our convolutions beside the compiler's own, layer by layer, forward and backward.

    python -m benchmarks.convolutions                     # or --image-size 512

The layers are those of RetinaNet ResNet-50 at 256 px, batch 4, UniNet-B0's depthwise
ones, and one of Mask R-CNN's mask head, 16 objects. The two forms take turns; the best
of the turns counts. On GPU and TPU the 1x1 convolutions are matrix products, everything
else is the same program on both sides.
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from agvm_jax.training.host_memory import keep_freed_memory
from models.ops import depthwise
from models.ops.conv import conv2d
from models.ops.pooling import max_pool

TURNS = 10
BATCH = 4

# name, side of the map at 256 px, channels in, channels out, kernel size, stride
LAYERS = (
    ("stem, 7x7 strided", 256, 3, 64, 7, 2),
    ("stage 1, 1x1", 64, 64, 256, 1, 1),
    ("stage 2, 1x1", 32, 512, 128, 1, 1),
    ("stage 3, 1x1", 16, 1024, 256, 1, 1),
    ("stage 2, shortcut", 64, 256, 512, 1, 2),
    ("stage 1, 3x3", 64, 64, 64, 3, 1),
    ("stage 2, 3x3", 32, 128, 128, 3, 1),
    ("stage 3, 3x3", 16, 256, 256, 3, 1),
    ("stage 4, 3x3", 8, 512, 512, 3, 1),
    ("stage 2, 3x3 strided", 64, 128, 128, 3, 2),
    ("stage 4, 3x3 strided", 16, 512, 512, 3, 2),
    ("P7, 3x3 strided", 4, 256, 256, 3, 2),
    ("tower on P3", 32, 256, 256, 3, 1),
    ("tower on P5", 8, 256, 256, 3, 1),
    ("tower on P7", 2, 256, 256, 3, 1),
    ("class scores on P3", 32, 256, 819, 3, 1),
)

# The same of UniNet-B0's depthwise ones, at 256 px.
DEPTHWISE_LAYERS = (
    ("stage 1, depthwise", 128, 24, 1),
    ("stage 2, depthwise", 64, 192, 1),
    ("stage 3, depthwise", 32, 480, 1),
    ("stage 4, depthwise", 16, 384, 1),
    ("stage 2, dw strided", 128, 24, 2),
    ("stage 4, dw strided", 32, 80, 2),
)


def plain_conv(x, kernel, stride):
    pad = (kernel.shape[0] // 2,) * 2
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        (pad, pad),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def plain_max_pool(x):
    window, strides = (1, 3, 3, 1), (1, 2, 2, 1)
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)


def forward_and_backward(function, *args):
    """Return a compiled function that computes the result and all gradients."""
    rng = np.random.default_rng(0)
    shape = jax.eval_shape(function, *args).shape
    dy = jnp.asarray(rng.normal(size=shape), jnp.float32)

    @jax.jit
    def run(*args):
        y, backward = jax.vjp(function, *args)
        return y, backward(dy)

    jax.block_until_ready(run(*args))
    return lambda: jax.block_until_ready(run(*args))


def compare(name, plain, ours, *args):
    runs = [forward_and_backward(function, *args) for function in (plain, ours)]
    times = np.full((TURNS, 2), np.inf)
    for turn in range(TURNS):
        for side, run in enumerate(runs):
            start = time.perf_counter()
            run()
            times[turn, side] = 1e3 * (time.perf_counter() - start)
    plain_ms, ours_ms = times.min(axis=0)
    print(f"{name:24s} {plain_ms:9.2f} {ours_ms:9.2f} {plain_ms / ours_ms:9.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image-size", type=int, default=256, help="a multiple of 256")
    scale, rest = divmod(parser.parse_args().image_size, 256)
    if rest or scale < 1:
        parser.error("--image-size is no multiple of 256, which the layers need")
    keep_freed_memory()
    rng = np.random.default_rng(0)

    def random(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    print(f"{'layer':24s} {'plain ms':>9s} {'ours ms':>9s} {'faster':>9s}")
    for name, side, channels, channels_out, size, stride in LAYERS:
        compare(
            name,
            functools.partial(plain_conv, stride=stride),
            lambda x, kernel, stride=stride: conv2d(x, kernel, stride),
            random(BATCH, scale * side, scale * side, channels),
            random(size, size, channels, channels_out),
        )
    for name, side, channels, stride in DEPTHWISE_LAYERS:
        compare(
            name,
            functools.partial(depthwise.plain_conv, stride),
            lambda x, kernel, stride=stride: depthwise.depthwise_conv(
                x, kernel, stride
            ),
            random(BATCH, scale * side, scale * side, channels),
            random(3, 3, 1, channels),
        )
    pixels = random(BATCH, scale * 128, scale * 128, 32)
    compare("dense max pool", depthwise.plain_pool, depthwise.dense_max_pool, pixels)
    pixels = random(BATCH, scale * 128, scale * 128, 64)
    compare("max pool", plain_max_pool, max_pool, pixels)
    rois = random(16, 14, 14, 256)
    kernel = random(3, 3, 256, 256)
    compare("mask head", functools.partial(plain_conv, stride=1), conv2d, rois, kernel)


if __name__ == "__main__":
    main()
