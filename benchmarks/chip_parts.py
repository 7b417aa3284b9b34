"""Parts of a detector in two forms, as a TPU's compiler estimates them.

    python -m benchmarks.chip_parts                  # TPU v5e, with libtpu

Forward and backward at 832 x 1344 px in bfloat16 on one device: the plain form, and the
one that the model has. Nothing runs; cycles are the compiler's estimates.
"""

import argparse
import os
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jax.sharding import SingleDeviceSharding  # noqa: E402

from agvm_jax.compiling.machine import find_machine  # noqa: E402
from agvm_jax.compiling.program_cost import costs  # noqa: E402
from models.heads.anchor_outputs import deltas_of  # noqa: E402
from models.heads.retina_loss import class_losses as losses_by_place  # noqa: E402
from models.ops.conv import conv2d  # noqa: E402
from models.ops.forms import use_forms  # noqa: E402
from models.ops.losses import sigmoid_focal_loss  # noqa: E402
from models.ops.matching import IGNORE  # noqa: E402
from models.ops.repetition import upsample  # noqa: E402
from models.ops.roi_align import roi_align  # noqa: E402

FOCAL = 0.25, 2.0  # alpha and gamma
P2, P3 = (208, 336), (104, 168)
RPN_MAPS = (P2, P3, (52, 84), (26, 42), (13, 21))
CHANNELS, CLASSES = 256, 80
STRIDES = (4, 8, 16, 32)


def doubling_plainly(x, lateral):
    batch, height, width, channels = x.shape
    x = x[:, :, None, :, None]
    x = jnp.broadcast_to(x, (batch, height, 2, width, 2, channels))
    return lateral + x.reshape(lateral.shape)


def doubling(x, lateral):
    return lateral + upsample(x, lateral.shape[1:3])


def deltas_plainly(kernel, *maps_and_rows):
    *maps, rows = maps_and_rows
    deltas = [
        conv2d(x, kernel, 1, jnp.float32).reshape(x.shape[0], -1, 4) for x in maps
    ]
    joined = jnp.concatenate(deltas, axis=1)
    return jnp.take_along_axis(joined, rows[..., None], axis=1)


def chosen_deltas(kernel, *maps_and_rows):
    *maps, rows = maps_and_rows
    width = kernel.shape[-1]
    deltas = [
        conv2d(x, kernel, 1, jnp.float32).reshape(x.shape[0], -1, width) for x in maps
    ]
    return jax.vmap(deltas_of)(jnp.concatenate(deltas, axis=1), rows)


def class_losses_plainly(kernel, x, labels):
    logits = conv2d(x, kernel, 1, jnp.float32).reshape(x.shape[0], -1, CLASSES)
    present = labels[..., None] == jnp.arange(CLASSES)
    focal = sigmoid_focal_loss(logits, present, *FOCAL)
    return jnp.where((labels != IGNORE)[..., None], focal, 0.0).sum((1, 2))


def class_losses(kernel, x, labels):
    logits = conv2d(x, kernel, 1, jnp.float32)
    logits = logits.reshape(x.shape[0], -1, kernel.shape[-1])
    labels = labels.reshape(*logits.shape[:2], -1)
    return losses_by_place(logits, labels, *FOCAL)


def pooled(x2, x3, x4, x5, boxes):
    return roi_align((x2, x3, x4, x5), boxes, strides=STRIDES, output_size=7)


def pooled_plainly(*arguments):
    with use_forms("gpu"):
        return pooled(*arguments)


def parts(shape):
    """Yield name, plain form, the model's form and arguments; `shape` makes one."""

    def features(images, *sides):
        return shape((images, *sides, CHANNELS))

    x, lateral = features(4, *P3), features(4, *P2)
    yield "doubling P3, 4 images", doubling_plainly, doubling, (x, lateral)
    maps = [features(4, *sides) for sides in RPN_MAPS]
    kernel = shape((1, 1, CHANNELS, 12))
    rows = shape((4, 256), jnp.int32)
    arguments = (kernel, *maps, rows)
    yield "RPN deltas, 4 images", deltas_plainly, chosen_deltas, arguments
    kernel = shape((1, 1, CHANNELS, 9 * CLASSES))
    labels = shape((8, 9 * P3[0] * P3[1]), jnp.int32)
    arguments = (kernel, features(8, *P3), labels)
    yield "class scores P3, 8 images", class_losses_plainly, class_losses, arguments
    maps = [features(8, *sides) for sides in RPN_MAPS[:4]]
    arguments = (*maps, shape((8, 512, 4), jnp.float32))
    yield "RoIAlign 7x7, 8 images", pooled_plainly, pooled, arguments


def estimate(function, arguments, shape):
    """Return cycles in millions and temporary megabytes, forward and backward."""
    is_float = [jnp.issubdtype(a.dtype, jnp.floating) for a in arguments]

    def run(slopes, *arguments):
        def of_floats(*floats):
            floats = iter(floats)
            pairs = zip(is_float, arguments, strict=True)
            return function(*(next(floats) if own else other for own, other in pairs))

        floats = [a for own, a in zip(is_float, arguments, strict=True) if own]
        value, backward = jax.vjp(of_floats, *floats)
        return value, backward(slopes)

    out = jax.eval_shape(function, *arguments)
    slopes = shape(out.shape, out.dtype)
    compiled = jax.jit(run).lower(slopes, *arguments).compile()
    found, _ = costs(compiled.as_text())
    cycles = sum(cost.cycles for cost in found.values())
    return cycles / 1e6, compiled.memory_analysis().temp_size_in_bytes / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pod", default="v5e:2x2", help="a TPU topology's name")
    sharding = SingleDeviceSharding(find_machine(parser.parse_args().pod).devices[0])

    def shape(sides, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(sides, dtype, sharding=sharding)

    print(f"{'':28s}{'plain':>22s}{'as it is':>22s}")
    for name, plain, ours, arguments in parts(shape):
        start = time.perf_counter()
        with use_forms("tpu"):
            columns = [estimate(form, arguments, shape) for form in (plain, ours)]
        print(
            f"{name:28s}"
            + "".join(f"{c:10.1f} M {mb:6.0f} MB " for c, mb in columns)
            + f" ({time.perf_counter() - start:.0f} s)",
            flush=True,
        )


if __name__ == "__main__":
    main()
