"""The hierarchical top-k equals a stable sort of everything."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.ops.topk import top_k, top_k_pairs


def check(values, k):
    best, index = jax.jit(top_k, static_argnums=1)(jnp.asarray(values), k)
    order = np.argsort(-values, kind="stable")[:k]
    np.testing.assert_array_equal(np.asarray(index), order)
    np.testing.assert_array_equal(np.asarray(best), values[order])


@pytest.mark.parametrize(
    ("size", "k"), [(1, 1), (7, 7), (100, 1), (1000, 3), (5003, 11), (20000, 2)]
)
def test_it_equals_a_stable_sort(size, k):
    rng = np.random.default_rng(size)
    check(rng.normal(size=size).astype(np.float32), k)


@pytest.mark.parametrize("distinct", [1, 2, 5, 40])
def test_ties_go_to_the_earlier_value(distinct):
    rng = np.random.default_rng(distinct)
    check(rng.integers(0, distinct, 5003).astype(np.float32), 11)


def test_minus_infinity_is_chosen_last_and_never_from_the_padding():
    values = np.full(5003, -np.inf, np.float32)
    values[[4, 4000, 5002]] = [1, 3, 2]
    check(values, 11)


def test_whole_numbers_are_chosen_too():
    check(np.random.default_rng(0).integers(-9, 9, 5003).astype(np.int32), 11)


def test_it_can_be_batched():
    values = np.random.default_rng(1).normal(size=(3, 1000)).astype(np.float32)
    _, index = jax.vmap(lambda row: top_k(row, 3))(jnp.asarray(values))
    np.testing.assert_array_equal(index, np.argsort(-values, axis=1)[:, :3])


@pytest.mark.parametrize(
    ("shape", "k"), [((300, 7), 10), ((300, 7), 1), ((4, 5), 3), ((4, 5), 100)]
)
@pytest.mark.parametrize("distinct", [3, 10**6])
def test_the_best_of_a_table_are_those_of_the_flattened_table(shape, k, distinct):
    rng = np.random.default_rng(k)
    table = rng.integers(0, distinct, shape).astype(np.float32)
    best, rows, columns = jax.jit(top_k_pairs, static_argnums=1)(jnp.asarray(table), k)
    flat = table.reshape(-1)
    order = np.argsort(-flat, kind="stable")[:k]
    np.testing.assert_array_equal(rows * shape[1] + columns, order)
    np.testing.assert_array_equal(best, flat[order])


@pytest.mark.parametrize("k", [0, 5])
def test_more_values_than_there_are_is_refused(k):
    with pytest.raises(ValueError, match="top_k of"):
        top_k(jnp.zeros(4), k)
