"""Which module a parameter belongs to, for every kind of tree people keep them in."""

import dataclasses
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

from agvm_jax.optim import agvm, chain, label_tree
from agvm_jax.optim.modules import FROZEN, module_names

PATTERNS = {"^backbone/stem/": None, "^backbone": "backbone", "bias$": "biases"}


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class DataclassParams:
    backbone: jax.Array
    head: dict


class TupleParams(NamedTuple):
    backbone: jax.Array
    head: dict


class EquinoxParams(eqx.Module):
    backbone: eqx.nn.Linear
    head: eqx.nn.Linear
    name: str = eqx.field(static=True, default="detector")

    def __init__(self):
        first, second = jax.random.split(jax.random.key(0))
        self.backbone = eqx.nn.Linear(2, 3, key=first)
        self.head = eqx.nn.Linear(3, 1, key=second)


class FlaxParams(nnx.Module):
    def __init__(self, rngs):
        self.backbone = nnx.Linear(2, 3, rngs=rngs)
        self.head = nnx.Linear(3, 1, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)


TREES = {
    "dict": lambda: {"backbone": jnp.ones(2), "head": {"w": jnp.ones(3)}},
    "dataclass": lambda: DataclassParams(jnp.ones(2), {"w": jnp.ones(3)}),
    "named tuple": lambda: TupleParams(jnp.ones(2), {"w": jnp.ones(3)}),
    "equinox": lambda: eqx.filter(EquinoxParams(), eqx.is_array),
    "flax state": lambda: nnx.state(FlaxParams(nnx.Rngs(0)), nnx.Param),
}
each_tree = pytest.mark.parametrize("make", TREES.values(), ids=TREES.keys())


@each_tree
def test_the_top_level_key_is_the_module(make):
    labels = label_tree(make())
    assert module_names(labels) == ("backbone", "head")


@each_tree
def test_agvm_doubles_the_rate_of_the_head_in_any_tree(make):
    params = make()
    tx = chain(agvm(alpha=0.0, eps=0.0), optax.sgd(0.5))
    grads = jax.tree.map(jnp.ones_like, params)
    phi = {"backbone": 0.8, "head": 0.2}
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params, phi=phi)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(updates):
        expected = -1.0 if "head" in jax.tree_util.keystr(path) else -0.5
        assert jnp.allclose(leaf, expected), path
    optax.apply_updates(params, updates)


def test_a_whole_flax_state_with_random_keys_and_counters_has_labels():
    state = nnx.state(FlaxParams(nnx.Rngs(0)))
    labels = label_tree(state)
    assert module_names(labels) == ("backbone", "head")
    assert FROZEN in jax.tree.leaves(labels)


def test_the_first_pattern_that_matches_wins():
    params = {"backbone": {"stem": {"w": 1.0}, "bias": 1.0}, "head": {"bias": 1.0}}
    labels = label_tree(params, PATTERNS)
    assert labels == {
        "backbone": {"stem": {"w": FROZEN}, "bias": "backbone"},
        "head": {"bias": "biases"},
    }


def test_a_function_sees_the_path_as_words_and_the_leaf():
    def by_rank(path, leaf):
        assert all(isinstance(word, str) for word in path)
        return "matrices" if jnp.ndim(leaf) == 2 else path[-1]

    params = {"a": [jnp.ones((2, 2)), jnp.ones(2)]}
    assert label_tree(params, by_rank) == {"a": ["matrices", "1"]}


def test_a_bare_array_is_one_module_named_params():
    assert label_tree(jnp.ones(2)) == "params"


def test_abstract_parameters_can_be_labelled():
    shapes = jax.eval_shape(lambda: {"backbone": jnp.ones(2), "step": jnp.array(0)})
    assert label_tree(shapes) == {"backbone": "backbone", "step": FROZEN}


def test_a_leaf_that_no_pattern_catches_is_named():
    with pytest.raises(ValueError, match=r"'head/w'.*'\^backbone'"):
        label_tree({"backbone": 1.0, "head": {"w": 1.0}}, {"^backbone": "backbone"})


def test_a_label_that_is_no_string_is_named():
    with pytest.raises(ValueError, match="gave 3 as the label of parameter 'w'"):
        label_tree({"w": 1.0}, lambda path, leaf: 3)


def test_frozen_leaves_pass_as_they_are():
    params = {"backbone": jnp.ones(2), "head": jnp.ones(2), "mean": jnp.ones(2)}
    modules = {"mean": None, "backbone": "backbone", "head": "head"}
    tx = agvm(scale_gradients=True, modules=modules, alpha=0.0)
    state = tx.init(params)
    assert set(state.mu) == {"backbone", "head"}
    phi = {"backbone": 0.8, "head": 0.2}
    updates, _ = tx.update(params, state, params, phi=phi)
    assert updates["mean"].tolist() == [1.0, 1.0]
    assert updates["head"][0] > 1.9
