"""phi of parameters that are sharded: over further manual axes, and under plain jit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from agvm_jax.optim import (
    GroupPlan,
    agvm,
    label_tree,
    mean_and_phi,
    mean_and_phi_of_groups,
    modulate,
)

REPLICAS, SHARDS = 4, 2
RNG = np.random.default_rng(0)


def leaf(*shape):
    noise = RNG.normal(size=(REPLICAS, *shape))
    return (0.5 * RNG.normal(size=shape) + noise).astype(np.float32)


# The backbone's kernel and the head are sharded over "model"; the bias is whole.
GRADS = {"backbone": {"kernel": leaf(6, 4), "bias": leaf(4)}, "head": leaf(8)}
SPECS = {"backbone": {"kernel": P(None, "model"), "bias": P()}, "head": P("model")}
AXES = {"backbone": {"kernel": "model", "bias": ()}, "head": ("model",)}
LABELS = label_tree(jax.tree.map(lambda g: g[0], GRADS))
MESH = Mesh(np.array(jax.devices()).reshape(REPLICAS, SHARDS), ("data", "model"))
WAYS = [("halves", "scatter"), ("halves", "masked"), ("norms", "auto")]


def measure(estimator, route, shard_axes, check_vma, specs=SPECS):
    def local(grads):
        grads = jax.tree.map(lambda g: g[0], grads)
        mean, stats = mean_and_phi(
            grads, "data", LABELS, estimator, route=route, shard_axes=shard_axes
        )
        return mean, stats.phi

    return jax.jit(
        jax.shard_map(
            local,
            mesh=MESH,
            in_specs=(jax.tree.map(lambda s: P("data", *s), specs),),
            out_specs=(specs, P()),
            check_vma=check_vma,
        )
    )(GRADS)


@pytest.mark.parametrize("check_vma", [False, True])
@pytest.mark.parametrize(("estimator", "route"), WAYS)
def test_phi_is_that_of_the_whole_module(estimator, route, check_vma):
    mean, phi = measure(estimator, route, AXES, check_vma)
    expected_mean, stats = mean_and_phi_of_groups(GRADS, LABELS, estimator)
    for module in stats.phi:
        np.testing.assert_allclose(phi[module], stats.phi[module], rtol=2e-5)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6),
        mean,
        expected_mean,
    )


def test_one_name_says_that_every_parameter_is_sharded():
    specs = {"backbone": {"kernel": P("model"), "bias": P("model")}, "head": P("model")}
    _, phi = measure("norms", "auto", "model", False, specs)
    expected = mean_and_phi_of_groups(GRADS, LABELS, "norms")[1].phi
    np.testing.assert_allclose(phi["backbone"], expected["backbone"], rtol=2e-5)


@pytest.mark.parametrize("check_vma", [False, True])
def test_shards_of_which_nothing_is_said_are_refused(check_vma):
    """Each device would measure its own shard and call it the module's phi."""
    with pytest.raises(ValueError, match="other manual axes.*'model'.*shard_axes="):
        measure("norms", "auto", None, check_vma)


def test_whole_parameters_on_a_mesh_of_two_axes_pass():
    whole = jax.tree.map(lambda s: P(), SPECS, is_leaf=lambda s: isinstance(s, P))
    expected = mean_and_phi_of_groups(GRADS, LABELS, "norms")[1].phi
    for shard_axes, check_vma in (((), False), (None, True)):
        _, phi = measure("norms", "auto", shard_axes, check_vma, whole)
        np.testing.assert_allclose(phi["head"], expected["head"], rtol=2e-5)


def test_shard_axes_for_another_tree_are_refused():
    with pytest.raises(ValueError, match="axes for 1 leaves but there are 3"):
        measure("norms", "auto", {"head": "model"}, False)


@pytest.mark.parametrize("estimator", ["halves", "norms"])
def test_agvm_and_micro_batches_know_the_shards_too(estimator):
    """Two micro-batches on each of four replicas; mu from the whole modules' phi."""
    more = jax.tree.map(lambda g: np.stack([g, 0.5 - g[::-1]], 1), GRADS)
    tx = modulate(optax.sgd(1.0), "data", alpha=0.0, tau=2, shard_axes=AXES)
    plan = GroupPlan(
        LABELS, "data", REPLICAS, micro_batches=2, estimator=estimator, shard_axes=AXES
    )

    def local(grads):
        first = jax.tree.map(lambda g: g[0, 0], grads)
        state = tx.update(first, tx.init(first), first)[1]
        groups = plan.init(first)
        for i in range(2):
            groups = plan.add(groups, jax.tree.map(lambda g, i=i: g[0, i], grads))
        return optax.tree.get(state, "AgvmState").phi, plan.finish(groups)[1].phi

    phi, of_plan = jax.jit(
        jax.shard_map(
            local,
            mesh=MESH,
            in_specs=(jax.tree.map(lambda s: P("data", None, *s), SPECS),),
            out_specs=P(),
            check_vma=False,
        )
    )(more)
    expected = mean_and_phi_of_groups(GRADS, LABELS)[1].phi
    if estimator == "halves":
        groups = jax.tree.map(lambda g: g.mean(1), more)
    else:
        groups = jax.tree.map(lambda g: g.reshape(-1, *g.shape[2:]), more)
    whole = mean_and_phi_of_groups(groups, LABELS, estimator)[1].phi
    for module in expected:
        np.testing.assert_allclose(phi[module], expected[module], rtol=2e-5)
        np.testing.assert_allclose(of_plan[module], whole[module], rtol=2e-5)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_under_plain_jit_the_compiler_shards_and_groups_are_micro_batches(
    axis_type, dtype
):
    """The recipe of the README for trainers that leave the sharding to XLA."""
    mesh = jax.make_mesh((8,), ("fsdp",), (axis_type,))
    specs = {"backbone": P("fsdp"), "head": P(None, "fsdp")}
    shardings = {m: NamedSharding(mesh, spec) for m, spec in specs.items()}
    params = {"backbone": jnp.ones((16, 4), dtype), "head": jnp.ones((4, 8), dtype)}
    params = jax.device_put(params, shardings)
    tx = modulate(optax.adamw(1e-2), tau=1, alpha=0.0)
    plan = GroupPlan(label_tree(params), micro_batches=4)
    images = np.random.default_rng(1).normal(size=(4, 8, 16)).astype(np.float32)

    def loss(params, x):
        hidden = jnp.tanh(
            jnp.matmul(x.astype(dtype), params["backbone"], out_sharding=replicated)
        )
        return jnp.mean(jnp.matmul(hidden, params["head"], out_sharding=last) ** 2)

    explicit = axis_type == AxisType.Explicit
    replicated, last = (P(), P(None, "fsdp")) if explicit else (None, None)

    @jax.jit
    def step(params, state, images):
        def add(groups, x):
            return plan.add(groups, jax.grad(loss)(params, x)), None

        groups, _ = jax.lax.scan(add, plan.init(params), images)
        grads, stats = plan.finish(groups)
        updates, state = tx.update(grads, state, params, phi=stats.phi)
        return optax.apply_updates(params, updates), state, grads, stats.phi

    with jax.set_mesh(mesh):
        state = jax.jit(tx.init)(params)
        new, after, grads, phi = step(params, state, images)
    for kind in (jnp.shape, jnp.result_type):
        assert jax.tree.map(kind, state) == jax.tree.map(kind, after)
    for module in params:
        assert grads[module].dtype == dtype
        assert new[module].sharding.is_equivalent_to(shardings[module], 2)
    stacked = jax.vmap(jax.grad(loss), (None, 0))
    if not explicit:
        expected = mean_and_phi_of_groups(stacked(params, images), label_tree(params))
        tolerance = 1e-4 if dtype == jnp.float32 else 0.05
        for module in params:
            np.testing.assert_allclose(
                phi[module], expected[1].phi[module], rtol=tolerance
            )


def test_accumulators_lie_on_an_explicit_mesh_as_the_parameters_do():
    mesh = jax.make_mesh((8,), ("fsdp",), (AxisType.Explicit,))
    sharding = NamedSharding(mesh, P(None, "fsdp"))
    with jax.set_mesh(mesh):
        params = {"backbone": jnp.ones((2, 8), jnp.bfloat16, out_sharding=sharding)}
        plan = GroupPlan(label_tree(params), micro_batches=2)
        types = jax.eval_shape(plan.init, params).sums[0]["backbone"]
    assert types.sharding.spec == P(None, "fsdp") and types.dtype == jnp.float32


def test_optimizer_state_can_be_given_shardings_by_map_params():
    """What people do to shard a state; it looks at the state of a placeholder."""
    params = {"backbone": jnp.ones(3), "head": jnp.ones((2, 2))}
    specs = {"backbone": P("x"), "head": P(None, "x")}
    for tx, of_parameters in ((modulate(optax.adam(1e-3)), specs), (agvm(), None)):
        state = tx.init(params)
        same = optax.tree.map_params(tx, lambda x: x, state)
        assert jax.tree.structure(same) == jax.tree.structure(state)
        sharded = optax.tree.map_params(
            tx, lambda _, s: s, state, specs, transform_non_params=lambda _: P()
        )
        assert optax.tree.get(sharded, "nu") == of_parameters
        assert optax.tree.get(sharded, "phi") == P()
