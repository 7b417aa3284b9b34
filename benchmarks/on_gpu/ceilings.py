"""What this chip moves and computes: the two figures that shares are taken of."""

import time

import jax
import jax.numpy as jnp

from benchmarks.on_gpu.lines import Lines, arguments

REPEATS = 10


def seconds_of(function, *operands) -> float:
    """Return the seconds of one call, the mean over `REPEATS` in a row."""
    compiled = jax.jit(function).lower(*operands).compile()
    jax.block_until_ready(compiled(*operands))
    start = time.perf_counter()
    for _ in range(REPEATS):
        result = compiled(*operands)
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / REPEATS


def main() -> None:
    args = arguments(__doc__)
    lines = Lines("ceilings", args)
    device = jax.devices()[0]
    lines.add(
        "device",
        platform=device.platform,
        kind=device.device_kind,
        jax=jax.__version__,
    )
    # Random numbers: zeros may be multiplied faster than what a network holds.
    side = 512 if args.dry_run else 8192
    x = jax.random.normal(jax.random.key(0), (side, side), jnp.bfloat16)
    seconds = seconds_of(lambda x: x @ x, x)
    lines.add("bf16 product", tflops=2 * side**3 / seconds / 1e12)
    count = 2**20 if args.dry_run else 2**30
    x = jax.random.normal(jax.random.key(0), (count,), jnp.float32)
    seconds = seconds_of(lambda x: x + 1, x)
    lines.add("copy", gbytes_a_second=2 * 4 * count / seconds / 1e9)
    lines.finish()


if __name__ == "__main__":
    main()
