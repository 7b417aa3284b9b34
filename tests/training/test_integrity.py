"""Checksums: any sharding gives the same one, and no flipped bit goes unseen."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from agvm_jax.training import integrity
from agvm_jax.training.integrity import DamagedCheckpoint


def oracle(array):
    """The checksum as the module's docstring has it, word by word, in Python."""
    array = np.asarray(array)
    words = array.view(f"uint{min(8 * array.itemsize, 32)}").ravel().tolist()
    total = 0
    for i, word in enumerate(words):
        i ^= i >> 16
        i = i * 0x7FEB352D % 2**32
        i ^= i >> 15
        i = i * 0x846CA68B % 2**32
        i ^= i >> 16
        total += word * (i | 1)
    return total % 2**32


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)

    def make(dtype):
        raw = rng.integers(0, 256, 8 * 4 * np.dtype(dtype).itemsize, np.uint8)
        return jnp.asarray(raw.view(dtype).reshape(8, 4))

    names = "float32 bfloat16 float16 int32 uint32 int8 uint8 float8_e4m3fn".split()
    return {name: make(jnp.dtype(name)) for name in names} | {
        "bool": jnp.asarray(rng.integers(0, 2, (8, 4)), bool),
        "scalar": jnp.float32(3.5),
        "cube": jnp.asarray(rng.normal(size=(8, 2, 2)), jnp.float32),
    }


def test_the_checksum_is_the_sum_that_the_docstring_says(arrays):
    expected = {name: oracle(array) for name, array in arrays.items()}
    assert integrity.checksums(arrays) == expected
    assert integrity.checksums({"empty": jnp.zeros((0, 3))}) == {"empty": 0}


def test_it_is_the_same_for_every_sharding(arrays):
    arrays = {name: arrays[name] for name in ("float32", "bfloat16", "cube")}
    expected = integrity.checksums(arrays)
    mesh = Mesh(np.asarray(jax.devices()).reshape(4, 2), ("a", "b"))
    for spec in (P(), P(("a", "b")), P("a", "b")):
        spread = jax.device_put(arrays, NamedSharding(mesh, spec))
        assert integrity.checksums(spread) == expected


SHARED_OUT = """
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from agvm_jax.training.integrity import checksums
from agvm_jax.training.mesh import data_mesh

parts = NamedSharding(data_mesh(), PartitionSpec("data"))
tree = {str(i): jax.device_put(jnp.ones((64, 8)), parts) for i in range(200)}
for _ in range(4):
    assert len(set(checksums(tree).values())) == 1
"""


def test_sums_of_many_arrays_do_not_wait_for_each_other():
    """They took each other's threads, and XLA ended the process; so it has its own."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", SHARED_OUT],
        env=os.environ
        | {
            "PYTHONPATH": str(root),
            "JAX_NUM_CPU_DEVICES": "4",
            "XLA_FLAGS": "--xla_cpu_collective_call_terminate_timeout_seconds=20",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[:1000]


def test_every_flipped_bit_is_found(arrays):
    for name, array in arrays.items():
        if name == "bool":
            continue  # one bit a byte, checked below
        host = np.asarray(array)
        record = integrity.make_record({name: array})
        integrity.verify({name: array}, record)
        for bit in range(0, 8 * host.nbytes, 7):
            raw = np.frombuffer(host.tobytes(), np.uint8).copy()
            raw[bit // 8] ^= 1 << bit % 8
            flipped = jnp.asarray(raw.view(host.dtype).reshape(host.shape))
            with pytest.raises(DamagedCheckpoint, match=f"{name} is not what was"):
                integrity.verify({name: flipped}, record)
    flags = arrays["bool"]
    record = integrity.make_record({"bool": flags})
    with pytest.raises(DamagedCheckpoint):
        integrity.verify({"bool": flags.at[7, 3].set(~flags[7, 3])}, record)


def test_entries_and_arrays_that_changed_places_are_found():
    tree = {"a": jnp.arange(6.0), "b": jnp.arange(6.0) + 1}
    record = integrity.make_record(tree)
    swapped = {"a": tree["a"][jnp.asarray([1, 0, 2, 3, 4, 5])], "b": tree["b"]}
    with pytest.raises(DamagedCheckpoint, match="a is not"):
        integrity.verify(swapped, record)
    with pytest.raises(DamagedCheckpoint, match="a, b are not"):
        integrity.verify({"a": tree["b"], "b": tree["a"]}, record)


def test_a_record_that_was_changed_is_found():
    record = integrity.make_record({"a": jnp.ones(2)}, window=[{"loss": float("nan")}])
    integrity.check_record(record)
    for wrong in (
        {**record, "window": []},
        {**record, "arrays": {"a": ["float32", [2], 1]}},
        {key: value for key, value in record.items() if key != "hash"},
        [],
    ):
        with pytest.raises(DamagedCheckpoint, match="record of checksums"):
            integrity.check_record(wrong)


def test_keys_numbers_of_four_bits_and_complex_ones_have_a_checksum_too():
    tree = {
        "key": jax.random.key(3),
        "int4": jnp.asarray([1, -2], jnp.int4),
        "complex": jnp.asarray([1 + 2j, 3j], jnp.complex64),
    }
    sums = integrity.checksums(tree)
    assert sums["key"] == oracle(jax.random.key_data(jax.random.key(3)))
    other = {
        "key": jax.random.key(4),
        "int4": jnp.asarray([1, 2], jnp.int4),
        "complex": jnp.asarray([1 + 2j, 4j], jnp.complex64),
    }
    assert all(
        sums[name] != value for name, value in integrity.checksums(other).items()
    )
