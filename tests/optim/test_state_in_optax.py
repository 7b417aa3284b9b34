"""What Optax's acceptance tests ask of a state: one test for each mechanism.

The tests of ``optax.contrib`` themselves are no part of this repository;
docs/optimizers.md has what they said.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from agvm_jax.optim import chain, modulate
from agvm_jax.optim.chaining import agvm

PARAMS = {"backbone": jnp.ones((8, 2)), "head": jnp.ones((8, 3))}
PHI = {"backbone": 0.8, "head": 0.2}
ADAM = optax.adam(0.1)
NESTINGS = {
    "modulate": modulate(ADAM),
    "chain": chain(optax.clip(1.0), agvm(), ADAM, optax.snapshot("u", lambda u: u)),
    "schedule_free": optax.contrib.schedule_free(modulate(ADAM), 0.1),
    "bare array": modulate(ADAM, anchor="params"),
}
each_nesting = pytest.mark.parametrize("name", NESTINGS)


def params_of(name):
    return PARAMS["head"] if name == "bare array" else PARAMS


@each_nesting
def test_map_params_finds_the_moments_and_leaves_agvms_scalars(name):
    tx, params = NESTINGS[name], params_of(name)
    state = tx.init(params)
    chex.assert_trees_all_equal(optax.tree.map_params(tx, lambda v: v, state), state)
    moved = optax.tree.map_params(tx, lambda v: v + 1, state)
    found = optax.tree.get(moved, "AgvmState")
    chex.assert_trees_all_equal(found, optax.tree.get(state, "AgvmState"))
    changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), moved, state)
    assert sum(jax.tree.leaves(changed)) >= 2 * len(jax.tree.leaves(params))


@each_nesting
def test_map_params_places_moments_beside_parameters_and_scalars_everywhere(name):
    tx, params = NESTINGS[name], params_of(name)
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,))
    split, whole = (NamedSharding(mesh, PartitionSpec(*p)) for p in (("data",), ()))
    placed = optax.tree.map_params(
        tx,
        lambda v: jax.device_put(v, split),
        tx.init(params),
        transform_non_params=lambda v: jax.device_put(v, whole),
    )
    mu = optax.tree.get(placed, "AgvmState").mu
    assert all(leaf.sharding == whole for leaf in jax.tree.leaves(mu))
    first = optax.tree.get(placed, "ScaleByAdamState").mu
    assert all(leaf.sharding == split for leaf in jax.tree.leaves(first))


def test_types_with_explicit_shardings_stay_what_they_are():
    tx = modulate(ADAM, alpha=0.0)
    mesh = jax.make_mesh((8,), ("x",), (AxisType.Explicit,))
    with jax.set_mesh(mesh):
        params = {
            m: jax.device_put(p.astype(jnp.float16), PartitionSpec("x"))
            for m, p in PARAMS.items()
        }
        state = tx.init(params)
        updates, after = tx.update(params, state, params, phi=PHI)
        types = [jax.tree.map(jax.typeof, tree) for tree in (state, params)]
        assert jax.tree.map(jax.typeof, after) == types[0]
        assert jax.tree.map(jax.typeof, updates) == types[1]
        assert "8@x" in str(jax.typeof(updates["head"]))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_types_stay_through_a_condition(dtype):
    """lax.cond refuses branches of different types."""
    tx = modulate(optax.adamw(0.1), tau=2)
    params = jax.tree.map(lambda p: p.astype(dtype), PARAMS)

    @jax.jit
    def step(flag, state):
        return jax.lax.cond(
            flag,
            lambda: tx.update(params, state, params, phi=PHI),
            lambda: (params, state),
        )

    updates, state = step(True, tx.init(params))
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    assert optax.tree.get(state, "AgvmState").count == 1


def test_a_rate_can_be_injected_around_modulate():
    def make(learning_rate, alpha):
        return modulate(optax.sgd(learning_rate), alpha=alpha, eps=0.0)

    tx = optax.inject_hyperparams(make)(learning_rate=0.5, alpha=0.0)
    state = tx.init(PARAMS)
    update = jax.jit(tx.update)
    updates, state = update(PARAMS, state, PARAMS, phi=PHI)
    np.testing.assert_allclose(updates["head"], -1.0, rtol=1e-6)
    state.hyperparams["learning_rate"] = jnp.float32(0.25)
    updates, state = update(PARAMS, state, PARAMS, phi=PHI)
    np.testing.assert_allclose(updates["head"], -0.5, rtol=1e-6)


def test_a_bad_number_is_still_refused_when_it_is_an_array():
    for wrong in (dict(tau=jnp.float32(0.5)), dict(eps=jnp.float32(-1))):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            agvm(**wrong)
