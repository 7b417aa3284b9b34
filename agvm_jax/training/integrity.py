"""Checksums of a state: what was saved is what comes back, bit for bit, or it is said.

Files are no good for this: compression and layout are the storage library's business,
and a file's hash dies when the same arrays are saved by another number of devices. So
every array has a checksum of its own, computed where the array is, before it is saved
and again after it was restored. It is a sum of integers modulo 2**32, and such a sum
does not depend on the order of its terms: any sharding over any devices gives the same.

    checksum = sum over i of word_i * hash(i)   modulo 2**32

with word_i the bits of entry i as an unsigned integer and hash(i) an odd number. One
flipped bit changes word_i by a power of two, and that times an odd number is not 0
modulo 2**32: it is always found. Anything else is missed once in about 2**32 times.

The checksums go into a record, a JSON document beside the arrays, that carries a hash
of itself.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


class DamagedCheckpoint(Exception):
    """What was restored is not what was saved; the message says how it shows."""


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a pytree, named the same in dicts, tuples, NamedTuples."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {path_name(path): leaf for path, leaf in flat}


def path_name(path: tuple[Any, ...]) -> str:
    """Writes a path of `jax.tree_util` as "params/backbone/0/w"."""
    return "/".join(
        str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p)))) for p in path
    )


def checksums(tree: Any) -> dict[str, int]:
    """Returns the checksum of every leaf, by its path; waits for the device.

    Args:
      tree: a pytree of `jax.Array`s of any shape, dtype and sharding. With several
        processes all of them call this.

    Returns:
      Numbers in [0, 2**32).
    """
    leaves = leaves_by_path(tree)
    # One program a shape, not one for all: equal shapes share it, so that 700 arrays of
    # a ResNet-50 detector and its optimizer compile 32 programs of a few lines. As one
    # program they compile longer and, on a CPU, run ten times as long.
    sums = jax.device_get([_in_turn(_checksum(leaf), leaf) for leaf in leaves.values()])
    return {path: int(value) for path, value in zip(leaves, sums, strict=True)}


def make_record(tree: Any, **more: Any) -> dict[str, Any]:
    """Returns what is stored beside a checkpoint's arrays.

    Args:
      tree: the arrays.
      more: anything else to keep, JSON-ready.
    """
    sums = checksums(tree)
    arrays = {
        path: [str(leaf.dtype), list(leaf.shape), sums[path]]
        for path, leaf in leaves_by_path(tree).items()
    }
    # As it will be read, or the hash would be of something else.
    record = json.loads(json.dumps({"arrays": arrays, **more}))
    return {**record, "hash": _hash(record)}


def check_record(record: Any) -> None:
    """Checks that a record is whole.

    Raises:
      DamagedCheckpoint: it is not what `make_record` returned.
    """
    if not isinstance(record, Mapping) or "hash" not in record:
        raise DamagedCheckpoint("its record of checksums is not one")
    rest = {key: value for key, value in record.items() if key != "hash"}
    if record["hash"] != _hash(rest):
        raise DamagedCheckpoint("its record of checksums does not fit its own hash")


def verify(tree: Any, record: Mapping[str, Any]) -> None:
    """Checks restored arrays, of the shapes and dtypes recorded, against their record.

    Raises:
      DamagedCheckpoint: some are not what was saved; the message names them.
    """
    sums = checksums(tree)
    wrong = [
        path for path, (*_, value) in record["arrays"].items() if sums[path] != value
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if wrong[3:] else ""
        verb = "are" if wrong[1:] else "is"
        raise DamagedCheckpoint(
            f"{', '.join(wrong[:3])}{more} {verb} not what was saved"
        )


def _in_turn(value: jax.Array, leaf: jax.Array) -> jax.Array:
    """Waits for the sum of an array that is shared out over CPU devices.

    Such a sum is exchanged between them. A CPU runs all its devices on one pool of
    threads, and programs that wait for each other's threads there never end: two
    hundred of these at once hung within a minute. A chip runs them one by one.
    """
    on_cpu = any(device.platform == "cpu" for device in leaf.devices())
    if on_cpu and not leaf.is_fully_replicated:
        value.block_until_ready()
    return value


@jax.jit
def _checksum(leaf: jax.Array) -> jax.Array:
    words = _words(leaf)
    index = jnp.zeros(words.shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(words.ndim)):
        # The place in the whole array, also where this device has a part of it.
        place = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        index += place * jnp.uint32(stride % 2**32)
        stride *= words.shape[axis]
    return jnp.sum(words * _odd_hash(index), dtype=jnp.uint32)


def _words(leaf: jax.Array) -> jax.Array:
    """Returns the bits of each entry as uint32; an entry of 64 bits gives two."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if jnp.iscomplexobj(leaf):
        return jnp.stack([_words(leaf.real), _words(leaf.imag)])
    if leaf.dtype == bool:
        return leaf.astype(jnp.uint32)
    bits = jax.dtypes.itemsize_bits(leaf.dtype)
    if bits < 8:  # int4 and the like, all of whose values float32 has
        return _words(leaf.astype(jnp.float32))
    unsigned = jnp.dtype(f"uint{min(bits, 32)}")
    return jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)


def _odd_hash(index: jax.Array) -> jax.Array:
    """Mixes the bits of uint32 numbers (C. Wellons' lowbias32) and makes them odd."""
    index ^= index >> 16
    index *= jnp.uint32(0x7FEB352D)
    index ^= index >> 15
    index *= jnp.uint32(0x846CA68B)
    index ^= index >> 16
    return index | jnp.uint32(1)


def _hash(record: Mapping[str, Any]) -> str:
    text = json.dumps(record, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
