"""Checkpoints: what is kept, what comes back, and what does not fit."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agvm_jax.training.checkpoint import CheckpointMismatch, Checkpoints
from agvm_jax.training.state import create_state


def make_state(width=3, seed=0, head="head"):
    params = {
        "backbone": {"w": jnp.full((2, width), seed, jnp.float32)},
        head: {"b": jnp.ones(3, jnp.bfloat16)},
    }
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    return create_state(
        params, {"bn": {"mean": jnp.arange(3.0)}}, tx.init(params), {}, seed
    )


def test_a_fresh_process_gets_back_every_bit(tmp_path):
    state = make_state(seed=5)
    first = Checkpoints(tmp_path / "c")
    first.save(7, state)
    first.close()
    second = Checkpoints(tmp_path / "c")
    assert second.latest() == 7
    restored = second.restore(7, make_state(seed=1))
    second.close()
    chex.assert_trees_all_equal(restored, state)
    chex.assert_trees_all_equal_dtypes(restored, state)
    assert jax.tree.structure(restored) == jax.tree.structure(state)


def test_the_last_ones_and_the_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    for step, ap in enumerate([0.1, 0.9, 0.3, None, 0.4, None]):
        checkpoints.save(step, make_state(), ap)
    checkpoints.wait()
    assert checkpoints.steps() == [1, 4, 5]
    checkpoints.close()


def test_saving_copies_before_it_returns(tmp_path):
    """The step donates its state, so the buffers are reused while saving goes on."""
    checkpoints = Checkpoints(tmp_path / "c")
    state = make_state(seed=2)
    expected = jax.tree.map(np.array, state)
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)
    checkpoints.save(1, state)
    overwrite(state)
    checkpoints.wait()
    chex.assert_trees_all_equal(checkpoints.restore(1, make_state()), expected)
    checkpoints.close()


def test_a_checkpoint_of_another_model_lists_what_differs(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(1, make_state())
    checkpoints.wait()
    with pytest.raises(CheckpointMismatch) as error:
        checkpoints.restore(1, make_state(width=4, head="rpn"))
    for words in (
        "params/backbone/w is (2, 3) there and (2, 4) here",
        "params/rpn/b is not in it",
        "params/head/b is only in it",
        "--config.name",
    ):
        assert words in str(error.value)
    checkpoints.close()
