"""Mean and phi over an axis of replicas, whatever carries the axis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from replica_cases import (
    GRADS,
    LABELS,
    assert_close,
    each_estimator,
    make_gradients,
    make_mesh,
)

from agvm_jax.optim import (
    mean_and_phi,
    mean_and_phi_of_groups,
    value_and_local_grad,
)


@each_estimator
def test_every_axis_gives_what_stacked_groups_give(on_replicas, estimator, split):
    def measure(grads):
        return mean_and_phi(grads, "data", LABELS, estimator, split)

    mean, stats = on_replicas(measure, GRADS)
    expected = mean_and_phi_of_groups(GRADS, LABELS, estimator, split)
    assert_close((mean, stats), expected)
    plain = jax.tree.map(lambda g: g.mean(0), GRADS)
    assert_close(mean, plain)


@pytest.mark.parametrize("replicas", [2, 4, 6])
@pytest.mark.parametrize("split", ["interleaved", "contiguous"])
def test_halves_are_the_same_by_every_route(replicas, split):
    grads = make_gradients(replicas)
    weights = jax.tree.map(lambda g: np.abs(g[0]) + 0.1, GRADS)

    def both(grads):
        grads = jax.tree.map(lambda g: g[0], grads)
        return [
            mean_and_phi(grads, "data", LABELS, "halves", split, w, route)
            for w in (None, weights)
            for route in ("scatter", "masked", "auto")
        ]

    run = jax.shard_map(
        both,
        mesh=make_mesh((replicas,), ("data",)),
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec(),
    )
    results = jax.jit(run)(grads)
    scatter, weighted_scatter = results[0], results[3]
    for other in results[1:3]:
        assert_close(scatter, other)
    for other in results[4:]:
        assert_close(weighted_scatter, other)
    assert_close(scatter[0], weighted_scatter[0])
    assert abs(scatter[1].phi["head"] - weighted_scatter[1].phi["head"]) > 1e-3


def test_halves_of_two_replicas_in_bfloat16_are_as_exact_as_their_gradients():
    a, b = np.asarray(jax.random.normal(jax.random.key(0), (2, 1000)), jnp.bfloat16)
    grads = {"w": np.stack([a, a + 0.01 * b])}  # phi is 5e-5, a sum's rounding 4e-3

    def measure(grads):
        return mean_and_phi(jax.tree.map(lambda g: g[0], grads), "data", {"w": "w"})

    run = jax.shard_map(
        measure,
        mesh=make_mesh((2,), ("data",)),
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec(),
    )
    x, y = grads["w"].astype(np.float64)
    phi = 1 - x @ y / np.sqrt((x @ x) * (y @ y))
    np.testing.assert_allclose(jax.jit(run)(grads)[1].phi["w"], phi, rtol=0.05)


@pytest.mark.parametrize(("dtype", "scattered"), [("float32", 0), ("bfloat16", 1)])
def test_halves_of_two_replicas_come_from_norms_if_the_sum_is_precise(dtype, scattered):
    """The test above cannot tell on a CPU, which sums bfloat16 in float32."""
    run = jax.shard_map(
        lambda g: mean_and_phi({"w": g["w"][0]}, "data", {"w": "w"}),
        mesh=make_mesh((2,), ("data",)),
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec(),
    )
    program = str(jax.make_jaxpr(run)({"w": jnp.ones((2, 8), dtype)}))
    assert program.count("reduce_scatter[") == scattered


@pytest.mark.parametrize("estimator", ["halves", "norms"])
def test_weights_change_what_is_measured_and_not_the_mean(on_replicas, estimator):
    weights = jax.tree.map(lambda g: np.abs(g[0]) + 0.1, GRADS)

    def measure(grads):
        return mean_and_phi(grads, "data", LABELS, estimator, weights=weights)

    mean, stats = on_replicas(measure, GRADS)
    weighted = jax.tree.map(lambda g, w: g * w, GRADS, weights)
    assert_close(mean, jax.tree.map(lambda g: g.mean(0), GRADS))
    assert_close(stats, mean_and_phi_of_groups(weighted, LABELS, estimator)[1])


@each_estimator
def test_bfloat16_gradients_stay_bfloat16(estimator, split):
    grads = jax.tree.map(lambda g: jnp.asarray(g, jnp.bfloat16), GRADS)

    def measure(grads):
        grads = jax.tree.map(lambda g: g[0], grads)
        return mean_and_phi(grads, "data", LABELS, estimator, split)

    run = jax.shard_map(
        measure,
        mesh=make_mesh((8,), ("data",)),
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec(),
    )
    mean, stats = jax.jit(run)(grads)
    assert {leaf.dtype for leaf in jax.tree.leaves(mean)} == {jnp.bfloat16.dtype}
    assert stats.phi["head"].dtype == jnp.float32
    expected = mean_and_phi_of_groups(grads, LABELS, estimator, split)
    assert_close(stats.phi, expected[1].phi, rtol=0.02)


@each_estimator
def test_a_nan_in_one_module_leaves_the_others_measured(estimator, split):
    grads = jax.tree.map(np.copy, GRADS)
    grads["head"][0][3, 2] = np.nan

    def measure(grads):
        grads = jax.tree.map(lambda g: g[0], grads)
        return mean_and_phi(grads, "data", LABELS, estimator, split)[1].phi

    run = jax.shard_map(
        measure,
        mesh=make_mesh((8,), ("data",)),
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec(),
    )
    phi = jax.jit(run)(grads)
    assert np.isnan(phi["head"]) and np.isfinite(phi["backbone"])


@pytest.mark.parametrize("check_vma", [False, True])
@each_estimator
def test_replicas_may_lie_over_two_mesh_axes(estimator, split, check_vma):
    axes = ("rack", "chip")

    def measure(grads):
        grads = jax.tree.map(lambda g: g[0], grads)
        return mean_and_phi(grads, axes, LABELS, estimator, split)

    run = jax.shard_map(
        measure,
        mesh=make_mesh((2, 4), axes),
        in_specs=PartitionSpec(axes),
        out_specs=PartitionSpec(),
        check_vma=check_vma,
    )
    expected = mean_and_phi_of_groups(GRADS, LABELS, estimator, split)
    assert_close(jax.jit(run)(GRADS), expected)


@pytest.mark.parametrize("kind_of_loss", ["local", "synced"])
def test_the_local_gradient_is_the_replicas_own(on_replicas, kind_of_loss):
    """Also with a statistic over the axis inside the loss, as synced BatchNorm has."""
    batches = np.random.default_rng(1).normal(size=(8, 4, 3)).astype(np.float32)
    params = {"backbone": jnp.array([1.0, -2.0, 0.5]), "step": jnp.array(3)}

    def loss_fn(params, x):
        y = x @ params["backbone"]
        total = y.sum()
        if kind_of_loss == "synced":
            y = y / jax.lax.pmean(jnp.mean(y * y), "data")
        return jnp.mean(jnp.sin(y)), {"y": total}

    def local(x):
        own = value_and_local_grad(
            lambda w, x: loss_fn({**params, "backbone": w}, x), "data"
        )
        (loss, aux), grad = own(params["backbone"], x)
        gathered = [loss, aux["y"], grad]
        return jax.lax.psum(
            [
                jnp.zeros((8, *g.shape)).at[jax.lax.axis_index("data")].set(g)
                for g in gathered
            ],
            "data",
        )

    losses, sums, grads = on_replicas(local, batches)
    for r, x in enumerate(batches):
        np.testing.assert_allclose(sums[r], (x @ params["backbone"]).sum(), rtol=1e-5)

    def one_by_one(w, replica):
        y = batches @ w
        if kind_of_loss == "synced":
            y = y / jnp.mean(y * y)
        return jnp.mean(jnp.sin(y[replica]))

    # The gradient of the mean loss is the mean of the replicas' own gradients.
    def mean_loss(w):
        return jnp.mean(jnp.stack([one_by_one(w, r) for r in range(8)]))

    np.testing.assert_allclose(
        grads.mean(0), jax.grad(mean_loss)(params["backbone"]), rtol=2e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        losses[2], one_by_one(params["backbone"], 2), rtol=1e-5, atol=1e-6
    )
    if kind_of_loss == "local":
        own = jax.grad(one_by_one)(params["backbone"], 5)
        np.testing.assert_allclose(grads[5], own, rtol=1e-4, atol=1e-6)
    assert float(jnp.abs(grads - grads.mean(0)).max()) > 1e-3


def test_keys_and_counters_pass_as_they_are():
    grads = {"backbone": GRADS["backbone"]["b"], "step": np.arange(8)}
    labels = {"backbone": "backbone", "step": "__frozen__"}
    run = jax.shard_map(
        lambda g: mean_and_phi(
            {"backbone": g["backbone"][0], "step": jnp.array(3)}, "data", labels
        ),
        mesh=make_mesh((8,), ("data",)),
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec(),
    )
    assert int(jax.jit(run)(grads)[0]["step"]) == 3


def test_gradients_that_were_summed_are_refused():
    def step(x):
        grads = jax.grad(lambda w: jnp.sum(w * x))(jnp.ones(3))
        return mean_and_phi({"w": grads}, "data", {"w": "w"})[0]

    run = jax.shard_map(
        step,
        mesh=make_mesh((8,), ("data",)),
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec(),
    )
    with pytest.raises(ValueError, match="value_and_local_grad"):
        run(np.ones((8, 3), np.float32))


def test_one_replica_and_an_odd_number_are_refused():
    def measure(estimator):
        return jax.vmap(
            lambda g: mean_and_phi({"w": g}, "data", {"w": "w"}, estimator),
            axis_name="data",
        )

    with pytest.raises(ValueError, match="1 group.*two replicas.*GroupPlan"):
        measure("norms")(np.ones((1, 2), np.float32))
    with pytest.raises(ValueError, match="3 groups.*estimator='norms'"):
        measure("halves")(np.ones((3, 2), np.float32))


def test_an_axis_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="no axis 'data' here.*pass phi="):
        mean_and_phi({"w": jnp.ones(2)}, "data", {"w": "w"})


def test_an_unknown_route_is_refused():
    with pytest.raises(ValueError, match="route='fast'"):
        jax.vmap(
            lambda g: mean_and_phi({"w": g}, "data", {"w": "w"}, route="fast"),
            axis_name="data",
        )(np.ones((2, 2), np.float32))
