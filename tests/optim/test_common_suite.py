"""One bar for AGVM and every baseline: the acceptance tests of optax.contrib."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from agvm_jax.optim import baselines
from agvm_jax.optim.chaining import agvm, chain, modulate
from agvm_jax.optim.groups import GroupPlan
from agvm_jax.optim.modules import label_tree
from agvm_jax.optim.stacked import phi_of_groups

PHI = {"backbone": 0.9, "head": 0.4}
# What inject_hyperparams must leave alone: switches, masks and inner optimizers.
STATIC = {
    "inner",
    "mask",
    "modules",
    "axis_name",
    "scale_gradients",
    "precondition",
    "start_step",
}


class Case(NamedTuple):
    factory: Callable[..., optax.GradientTransformation]
    kwargs: dict[str, Any]
    takes_phi: bool = False


def agvm_first(inner, alpha):
    return chain(agvm(alpha=alpha), inner)


def agvm_last(inner, tau):
    return optax.chain(inner, agvm(tau=tau, estimator="norms", scale_gradients=True))


SGD = optax.sgd(1e-3, momentum=0.9)
CASES = {
    "sgd": Case(baselines.sgd, dict(learning_rate=1e-3)),
    "lars": Case(
        baselines.lars,
        dict(learning_rate=1e-3, weight_decay=0.0, trust_coefficient=0.1),
    ),
    "lamb": Case(baselines.lamb, dict(learning_rate=1e-3, weight_decay=0.0)),
    "pmd_lamb": Case(
        baselines.pmd_lamb, dict(learning_rate=1e-3, weight_decay=0.0, decay=0.5)
    ),
    "agvm around sgd": Case(modulate, dict(inner=SGD, tau=2), True),
    "agvm around adamw": Case(
        modulate, dict(inner=optax.adamw(1e-3, weight_decay=0.0)), True
    ),
    "agvm around lamb": Case(
        modulate, dict(inner=baselines.lamb(1e-3, weight_decay=0.0)), True
    ),
    "agvm first in a chain": Case(agvm_first, dict(inner=SGD, alpha=0.5), True),
    "agvm last in optax.chain": Case(agvm_last, dict(inner=SGD, tau=3), True),
    "agvm growing": Case(modulate, dict(inner=SGD, average="growing", tau=1), True),
}

each_optimizer = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def update_of(case, tx):
    extra = {"phi": PHI} if case.takes_phi else {}
    return functools.partial(optax.with_extra_args_support(tx).update, **extra)


def some_params(dtype=jnp.float32):
    return {
        "backbone": {"kernel": jnp.linspace(-1, 2, 24, dtype=dtype).reshape(8, 3)},
        "head": {"kernel": jnp.ones((8, 2), dtype), "bias": jnp.ones(2, dtype)},
    }


def some_grads(seed=0, dtype=jnp.float32):
    leaves, tree = jax.tree.flatten(some_params(dtype))
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return tree.unflatten(
        [
            jax.random.normal(k, x.shape, dtype)
            for k, x in zip(keys, leaves, strict=True)
        ]
    )


def parabola(p):
    return jnp.sum((p["backbone"] - jnp.array([1.0, -1.0])) ** 2) + jnp.sum(
        (p["head"] - 1.0) ** 2
    )


def rosenbrock(p):
    x, y = p["backbone"][0], p["head"][0]
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def matrix_parabola(p):
    target = jnp.array([[3.0, -2.0], [1.0, 4.0]])
    return jnp.sum((p["backbone"] - target) ** 2) + jnp.sum((p["head"] - target.T) ** 2)


PROBLEMS = {
    "parabola": (
        parabola,
        {"backbone": jnp.array([-1.0, 10.0]), "head": jnp.zeros(1)},
        {"backbone": [1.0, -1.0], "head": [1.0]},
    ),
    "rosenbrock": (
        rosenbrock,
        {"backbone": jnp.zeros(1), "head": jnp.zeros(1)},
        {"backbone": [1.0], "head": [1.0]},
    ),
    "matrices": (
        matrix_parabola,
        {"backbone": jnp.zeros((2, 2)), "head": jnp.ones((2, 2))},
        {"backbone": [[3.0, -2.0], [1.0, 4.0]], "head": [[3.0, 1.0], [-2.0, 4.0]]},
    ),
}


@each_optimizer
@pytest.mark.parametrize("problem", PROBLEMS)
def test_it_converges_on_toy_problems(case, problem):
    loss, start, goal = PROBLEMS[problem]
    tx = case.factory(**case.kwargs)
    update = update_of(case, tx)

    def step(carry, _):
        params, state = carry
        updates, state = update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, length=20_000))(
        (start, tx.init(start))
    )
    for name, value in goal.items():
        np.testing.assert_allclose(params[name], value, rtol=3e-2, atol=3e-2)


@each_optimizer
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_jit_keeps_updates_and_state_as_they_are(case, dtype):
    tx = case.factory(**case.kwargs)
    traced = []

    @jax.jit
    def update(*args):
        traced.append(1)
        return update_of(case, tx)(*args)

    params = some_params(dtype)
    first = state = jax.jit(tx.init)(params)
    for step in range(3):
        updates, state = update(some_grads(step, dtype), state, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(state, first)
        chex.assert_tree_all_finite(updates)
    assert len(traced) == 1


@each_optimizer
def test_strangers_arguments_are_ignored(case):
    tx = optax.with_extra_args_support(case.factory(**case.kwargs))
    state = tx.init(some_params())
    update = functools.partial(update_of(case, tx), some_grads(), state, some_params())
    chex.assert_trees_all_equal(update(stranger=1.0)[0], update()[0])


@each_optimizer
def test_numbers_can_be_injected(case):
    tx = case.factory(**case.kwargs)
    static = STATIC & inspect.signature(case.factory).parameters.keys()
    injected = optax.inject_hyperparams(case.factory, static_args=static)(**case.kwargs)
    state, injected_state = tx.init(some_params()), injected.init(some_params())
    for step in range(2):
        args = some_grads(step), some_params()
        updates, state = jax.jit(update_of(case, tx))(args[0], state, args[1])
        others, injected_state = jax.jit(update_of(case, injected))(
            args[0], injected_state, args[1]
        )
    chex.assert_trees_all_close(updates, others, rtol=1e-5)
    # 1 - b2 is rounded once more when b2 is a float32 array: hence 1e-4.
    chex.assert_trees_all_close(state, injected_state.inner_state, rtol=1e-4)


@pytest.mark.parametrize("name", ["sgd", "lars", "lamb", "pmd_lamb"])
def test_the_rate_may_be_a_schedule(name):
    factory, kwargs, _ = CASES[name]
    halved = {**kwargs, "learning_rate": lambda t: jnp.where(t < 1, 1e-3, 5e-4)}
    paths = []
    for settings in (kwargs, halved):
        tx = factory(**settings)
        state, path = tx.init(some_params()), []
        # Without a memory in the gradient the second step differs by the rate alone.
        for grads in (optax.tree.zeros_like(some_params()), some_grads()):
            updates, state = tx.update(grads, state, some_params())
            path.append(updates)
        paths.append(path)
    chex.assert_trees_all_close(*[path[0] for path in paths])
    chex.assert_trees_all_close(
        paths[1][1], jax.tree.map(lambda u: u / 2, paths[0][1]), rtol=1e-5
    )


@each_optimizer
def test_accumulated_gradients_make_the_step_of_their_mean(case):
    tx = case.factory(**case.kwargs)
    params = some_params()
    mean = jax.tree.map(lambda a, b: (a + b) / 2, some_grads(0), some_grads(1))
    if case.takes_phi:
        # optax.MultiSteps drops extra arguments, so the accumulation is ours.
        plan = GroupPlan(label_tree(params), micro_batches=2)

        @jax.jit
        def accumulate(grads):
            groups, _ = jax.lax.scan(
                lambda groups, g: (plan.add(groups, g), None), plan.init(params), grads
            )
            mean, stats = plan.finish(groups)
            return tx.update(mean, tx.init(params), params, phi=stats.phi)[0]

        pair = jax.tree.map(
            lambda a, b: jnp.stack([a, b]), some_grads(0), some_grads(1)
        )
        updates = accumulate(pair)
        phi = phi_of_groups(pair, label_tree(params))
        expected, _ = tx.update(mean, tx.init(params), params, phi=phi)
    else:
        several = optax.MultiSteps(tx, every_k_schedule=2)
        state = several.init(params)
        for step in range(2):
            updates, state = jax.jit(several.update)(some_grads(step), state, params)
        expected, _ = tx.update(mean, tx.init(params), params)
    chex.assert_trees_all_close(updates, expected, rtol=1e-4, atol=1e-7)


@each_optimizer
def test_state_and_updates_stay_sharded(case):
    tx = case.factory(**case.kwargs)
    mesh = Mesh(np.array(jax.devices()), ("shard",))

    def placed(tree):
        def place(leaf):
            split = leaf.ndim == 2 and leaf.shape[0] == 8
            spec = PartitionSpec("shard") if split else PartitionSpec()
            return jax.device_put(leaf, NamedSharding(mesh, spec))

        return jax.tree.map(place, tree)

    params, grads = placed(some_params()), placed(some_grads())
    state = placed(tx.init(some_params()))
    updates, new_state = jax.jit(update_of(case, tx))(grads, state, params)
    expected, _ = update_of(case, tx)(
        some_grads(), tx.init(some_params()), some_params()
    )
    chex.assert_trees_all_close(updates, expected, rtol=1e-5)

    def same_place(new, old):
        assert new.sharding.is_equivalent_to(old.sharding, new.ndim)

    jax.tree.map(same_place, updates, params)
    jax.tree.map(same_place, new_state, state)
