"""A checkpoint is of no mode and of no mesh: another goes on from it."""

import logging

import jax
import numpy as np
from test_sharded_step import run_steps

from agvm_jax.training.checkpoint import Checkpoints
from agvm_jax.training.integrity import checksums
from agvm_jax.training.mesh import data_mesh
from agvm_jax.training.partition import Partition
from agvm_jax.training.restoring import as_dict, restore

LOG = logging.getLogger("test")


def test_a_checkpoint_moves_between_modes_and_shapes_of_the_mesh(tmp_path):
    state, *_ = run_steps("full", 4, 0, 1, None, ())
    checkpoints = Checkpoints(tmp_path, 3, {}, LOG)
    checkpoints.save(1, state)
    checkpoints.close()
    sums = checksums(as_dict(state))
    for mode, fsdp in (("none", None), ("optimizer", 2), ("full", 8), ("full", 2)):
        partition = Partition(data_mesh(fsdp_size=fsdp), mode, least_size=16)
        like = partition.like(state)
        moved = restore(tmp_path, 1, like, LOG).state
        assert checksums(as_dict(moved)) == sums
        for leaf, wanted, saved in zip(
            *map(jax.tree.leaves, (moved, like, state)), strict=True
        ):
            assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim)
            np.testing.assert_array_equal(leaf, saved)
        kernel = moved.params["head"]["kernel"]
        parts = fsdp if mode == "full" else 1
        assert kernel.addressable_shards[0].data.size * parts == kernel.size
