"""What a compiled step with sharded state sends: every parameter once each way."""

import jax
import jax.numpy as jnp
import pytest

from agvm_jax.compiling.collectives import collectives
from benchmarks.sharded_collectives import lower_step

DEVICES = 4
SHAPES = {
    "backbone": {"kernel": (128, 128), "small": (16,)},
    "head": {"kernel": (128, 256), "other": (256, 64)},
}
SHARDED = 4 * (128 * 128 + 128 * 256 + 256 * 64)  # bytes


def sent(mode, kind):
    """Returns the bytes of every collective of a kind, scalars left out."""
    params = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        SHAPES,
        is_leaf=lambda x: isinstance(x, tuple),
    )
    devices = jax.devices()[:DEVICES]
    lowered, *_ = lower_step(mode, DEVICES, "norms", True, params, devices)
    found = collectives(lowered.compile().as_text(), DEVICES)
    return [one.payload for one in found if one.kind == kind and one.payload > 1024]


@pytest.mark.parametrize("mode", ["optimizer", "full"])
def test_every_parameter_is_gathered_once(mode):
    """With a choice behind the gather, "optimizer" gathered old and new ones."""
    assert sum(sent(mode, "all-gather")) == SHARDED
