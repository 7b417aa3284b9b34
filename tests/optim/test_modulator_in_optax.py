"""AGVM in what Optax wraps around a transformation, and its state's types."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from modulator_cases import GRADS, PARAMS, PHI, some_phis

from agvm_jax.optim import AgvmState, agvm, chain, modulate

# agvm is used alone here, which it warns of.
pytestmark = pytest.mark.filterwarnings("ignore:agvm scales gradients")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_updates_keep_their_dtype_and_the_state_its_types(dtype):
    params = jax.tree.map(lambda p: p.astype(dtype), PARAMS)
    tx = agvm()
    state = tx.init(params)
    updates, after = jax.jit(tx.update)(params, state, params, phi=PHI)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)


def test_nothing_is_compiled_twice_and_buffers_may_be_donated():
    tx = modulate(optax.adamw(1e-3), tau=2)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    @chex.assert_max_traces(n=1)
    def step(params, state, phi):
        updates, state = tx.update(GRADS, state, params, phi=phi)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(jnp.array, PARAMS)
    state = tx.init(params)
    first = state[0].mu["fpn"]
    for phi in some_phis(4):
        phi = {m: jnp.float32(p) for m, p in phi.items()}
        params, state = step(params, state, phi)
    assert first.is_deleted() and state[0].mu["fpn"] != 1.0


def test_hyperparameters_can_be_injected_and_changed():
    def make(learning_rate, alpha, tau):
        return modulate(optax.sgd(learning_rate), alpha=alpha, tau=tau)

    tx = optax.inject_hyperparams(make)(
        learning_rate=0.5, alpha=optax.linear_schedule(0.0, 0.5, 1), tau=1
    )
    state = tx.init(PARAMS)
    _, state = jax.jit(tx.update)(GRADS, state, PARAMS, phi=PHI)
    np.testing.assert_allclose(
        optax.tree.get(state, "AgvmState").mu["fpn"], np.sqrt(3), rtol=1e-5
    )
    updates, state = jax.jit(tx.update)(GRADS, state, PARAMS, phi=PHI)
    assert state.hyperparams["alpha"] == 0.5
    np.testing.assert_allclose(updates["fpn"], -0.25 * np.sqrt(3), rtol=1e-5)
    state.hyperparams["learning_rate"] = jnp.float32(1.0)
    updates, _ = jax.jit(tx.update)(GRADS, state, PARAMS, phi=PHI)
    np.testing.assert_allclose(updates["fpn"], -0.5 * np.sqrt(3), rtol=1e-5)


def test_masked_parameters_are_neither_measured_nor_scaled():
    mask = {"backbone": True, "fpn": False, "head": True}
    tx = optax.masked(agvm(alpha=0.0), mask)
    state = tx.init(PARAMS)
    phi = {"backbone": 0.8, "head": 0.2}
    updates, state = jax.jit(tx.update)(GRADS, state, PARAMS, phi=phi)
    assert set(state.inner_state.mu) == {"backbone", "head"}
    assert updates["fpn"].tolist() == GRADS["fpn"].tolist()
    np.testing.assert_allclose(updates["head"], 1.0, rtol=1e-5)


def test_partition_gives_each_part_its_optimizer():
    parts = {"backbone": "train", "fpn": "train", "head": "frozen"}
    tx = optax.partition(
        {"train": modulate(optax.adamw(0.1), alpha=0.0), "frozen": optax.set_to_zero()},
        parts,
    )
    state = tx.init(PARAMS)
    phi = {"backbone": 0.8, "fpn": 0.2}
    updates, _ = jax.jit(tx.update)(GRADS, state, PARAMS, phi=phi)
    assert not updates["head"].any()
    np.testing.assert_allclose(
        updates["fpn"][0, 0] / updates["backbone"][0], 2.0, rtol=1e-4
    )
    inside = modulate(
        optax.partition(
            {"train": optax.sgd(0.1), "frozen": optax.set_to_zero()}, parts
        ),
        alpha=0.0,
    )
    updates, _ = inside.update(GRADS, inside.init(PARAMS), PARAMS, phi=PHI)
    assert not updates["head"].any() and updates["fpn"].any()


def test_apply_if_finite_skips_a_bad_step_whole():
    tx = optax.apply_if_finite(modulate(optax.sgd(0.1), tau=1, alpha=0.0), 3)
    state = tx.init(PARAMS)
    bad = {**GRADS, "head": jnp.full(2, jnp.nan)}
    update = jax.jit(tx.update)
    updates, state = update(bad, state, PARAMS, phi=PHI)
    assert optax.tree.get(state, "AgvmState").mu["fpn"] == 1.0
    assert not any(u.any() for u in updates.values())
    updates, state = update(GRADS, state, PARAMS, phi=PHI)
    assert optax.tree.get(state, "AgvmState").mu["fpn"] > 1.5


def test_parameters_sharded_over_devices_stay_sharded():
    mesh = jax.make_mesh((8,), ("model",), (AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("model"))
    params = {
        "backbone": jax.device_put(jnp.ones((8, 2)), sharding),
        "head": jax.device_put(jnp.ones(16), sharding),
    }
    tx = modulate(optax.sgd(0.1, momentum=0.9), alpha=0.0)
    state = jax.jit(tx.init)(params)
    phi = {"backbone": 0.8, "head": 0.2}
    updates, after = jax.jit(tx.update)(params, state, params, phi=phi)
    for leaf in jax.tree.leaves(updates):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    assert after[0].mu["head"].sharding.is_fully_replicated
    np.testing.assert_allclose(updates["head"], -0.2, rtol=1e-5)


def test_the_state_says_what_it_is():
    tx = chain(optax.clip(1.0), agvm(), optax.adam(1e-3))
    state = tx.init(PARAMS)
    found = optax.tree.get(state, "AgvmState")
    assert isinstance(found, AgvmState) and found is state[1]
    assert sorted(found.mu) == sorted(PHI)
