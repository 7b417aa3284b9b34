"""Freed memory stays with the process: looked at from outside, in one of its own."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource
from benchmarks.host_memory import keep_freed_memory

told = {tell} and keep_freed_memory()
faults = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytes([len(faults)]) * 2**25  # written, then freed
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(int(told), faults[-1])
"""


def page_faults(tell: bool) -> tuple[int, int]:
    output = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(tell=tell)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    told, faults = map(int, output.split())
    return told, faults


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_a_freed_block_is_not_paid_for_again():
    told, faults = page_faults(tell=True)
    if not told:
        pytest.skip("this C library has no mallopt")
    _, usual = page_faults(tell=False)
    assert usual > 1000  # 32 MiB in pages of 4 KiB are 8192
    assert faults < usual / 100
