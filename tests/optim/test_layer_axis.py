"""An optimizer over stacked layers beside the same one over the layers one by one."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agvm_jax.optim import baselines
from agvm_jax.optim.layer_axis import over_layers, without_layer_axis

STEPS = 3
# Layers of very different sizes, as the trust ratio meets them.
SIZES = np.array([1.0, 100.0, 0.01])


def is_stacked(tree):
    """Which leaves have a layer axis: those under the key "stack"."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: any(key.key == "stack" for key in path), tree
    )


def apart(tree):
    """The same without stacks: a dict of layers in their place."""
    layers = range(len(SIZES))
    return tree | {
        "stack": {
            str(i): jax.tree.map(lambda leaf, i=i: leaf[i], tree["stack"])
            for i in layers
        }
    }


def draw(seed):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        values = rng.normal(size=shape)
        if shape[0] == len(SIZES):
            values *= SIZES.reshape(-1, *[1] * (len(shape) - 1))
        return jnp.asarray(values, jnp.float32)

    return {
        "head": {"kernel": normal(4, 2), "bias": normal(2)},
        "stack": {
            "kernel": normal(3, 4, 5),
            "conv": normal(3, 2, 2, 4, 2),
            "bias": normal(3, 5),
        },
    }


def run(tx, change=lambda tree: tree):
    """Parameters after some steps with gradients of other sizes in each layer."""
    params = change(draw(0))
    state = tx.init(params)

    @jax.jit
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for seed in range(STEPS):
        params, state = step(params, state, change(draw(seed + 1)))
    return params


RATE = optax.linear_schedule(0.1, 0.01, STEPS)
OPTIMIZERS = {
    "lars": functools.partial(baselines.lars, RATE, weight_decay=0.1),
    "lamb": functools.partial(baselines.lamb, RATE, weight_decay=0.1),
    "pmd_lamb": functools.partial(baselines.pmd_lamb, RATE, weight_decay=0.1, period=2),
    "decay of matrices": functools.partial(
        baselines.sgd, RATE, weight_decay=0.5, mask=baselines.matrices_only
    ),
    "muon": functools.partial(optax.contrib.muon, RATE, weight_decay=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_stacked_layers_move_as_the_layers_of_an_unstacked_network(name):
    tx = OPTIMIZERS[name]()
    expected = run(tx, apart)
    stacked = run(over_layers(tx, is_stacked))
    chex.assert_trees_all_close(apart(stacked), expected, rtol=1e-4, atol=1e-6)
    # Without knowledge of the axis they move otherwise: the test can fail.
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(apart(run(tx)), expected, rtol=1e-2, atol=1e-6)


def test_without_stacks_the_state_is_the_optimizers_own():
    tx = baselines.lamb(0.1)
    wrapped = over_layers(tx, lambda tree: jax.tree.map(lambda _: False, tree))
    params = draw(0)
    chex.assert_trees_all_equal(wrapped.init(params), tx.init(params))
    chex.assert_trees_all_equal(run(wrapped), run(tx))


def test_extra_arguments_and_missing_parameters_pass_through():
    def update(updates, state, params=None, *, factor):
        assert params is None
        return jax.tree.map(lambda u: factor * u, updates), state

    inner = optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)
    tx = over_layers(inner, is_stacked)
    updates, _ = tx.update(draw(1), tx.init(draw(0)), factor=2.0)
    chex.assert_trees_all_equal(updates, jax.tree.map(lambda u: 2 * u, draw(1)))


def test_a_mask_is_asked_about_one_layer():
    shapes = without_layer_axis(draw(0), is_stacked)
    assert shapes["stack"]["kernel"].shape == (4, 5)
    assert baselines.matrices_only(shapes) == {
        "head": {"kernel": True, "bias": False},
        "stack": {"kernel": True, "conv": True, "bias": False},
    }


def test_a_number_has_no_layer_axis():
    tx = over_layers(optax.sgd(0.1), lambda tree: {"scale": True})
    with pytest.raises(ValueError, match="without any axis"):
        tx.init({"scale": jnp.float32(1)})
