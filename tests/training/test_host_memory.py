"""Freed memory stays with the process: looked at from outside, in one of its own."""

import subprocess
import sys

import pytest

# The temporary memory of this program is 64 MiB: a sort cannot work in place.
PROGRAM = """
import resource
import jax
import jax.numpy as jnp
from agvm_jax.training.host_memory import keep_freed_memory

told = {tell}
jax.config.update("jax_num_cpu_devices", 1)
compiled = jax.jit(lambda x: jnp.sort(jnp.outer(x, x), axis=0).sum())
x = jnp.ones(4096)
faults = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    compiled(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(int(told), faults[-1])
"""


def page_faults(tell: str) -> tuple[int, int]:
    output = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(tell=tell)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    told, faults = map(int, output.split())
    return told, faults


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_the_temporary_memory_of_a_step_is_not_paid_for_again():
    told, faults = page_faults("keep_freed_memory()")
    if not told:
        pytest.skip("this C library has no mallopt")
    _, usual = page_faults("False")
    assert usual > 10_000  # 64 MiB in pages of 4 KiB are 16384
    assert faults < usual / 100
