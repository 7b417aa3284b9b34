"""Accumulating groups one by one equals having them all at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from agvm_jax.optim import (
    GroupPlan,
    label_tree,
    mean_and_phi_of_groups,
    split_batch,
    value_and_local_grad,
)

RNG = np.random.default_rng(0)
PARAMS = {"backbone": np.zeros((3, 5), np.float32), "head": np.zeros(7, np.float32)}
LABELS = label_tree(PARAMS)


def make_gradients(*leading):
    return jax.tree.map(
        lambda p: (0.3 + RNG.normal(size=(*leading, *p.shape))).astype(np.float32),
        PARAMS,
    )


def assert_close(actual, expected, rtol=2e-5):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=rtol, atol=1e-6),
        actual,
        expected,
    )


def stream(plan, stacked, weights=None):
    def step(accumulator, grads):
        return plan.add(accumulator, grads, weights), None

    first = plan.init(PARAMS)
    accumulator, _ = jax.lax.scan(step, first, stacked)
    assert jax.tree.structure(first) == jax.tree.structure(accumulator)
    return plan.finish(accumulator, weights)


@pytest.mark.parametrize(
    ("estimator", "split", "micro_batches"),
    [
        ("halves", "interleaved", 4),
        ("halves", "contiguous", 4),
        ("norms", "interleaved", 4),
        ("norms", "interleaved", 3),
    ],
)
def test_one_device_has_its_micro_batches_as_groups(estimator, split, micro_batches):
    grads = make_gradients(micro_batches)
    plan = GroupPlan(
        LABELS, micro_batches=micro_batches, estimator=estimator, split=split
    )
    expected = mean_and_phi_of_groups(grads, LABELS, estimator, split)
    assert_close(jax.jit(functools.partial(stream, plan))(grads), expected)


def test_weights_reach_every_group():
    grads = make_gradients(4)
    weights = jax.tree.map(lambda p: RNG.uniform(0.1, 2, p.shape).astype("f4"), PARAMS)
    scaled = jax.tree.map(lambda g, w: g * w, grads, weights)
    for estimator in ("halves", "norms"):
        plan = GroupPlan(LABELS, micro_batches=4, estimator=estimator)
        mean, stats = stream(plan, grads, weights)
        assert_close(mean, jax.tree.map(lambda g: g.mean(0), grads))
        assert_close(stats, mean_and_phi_of_groups(scaled, LABELS, estimator)[1])


@pytest.mark.parametrize("estimator", ["halves", "norms"])
def test_replicas_times_micro_batches_over_every_axis(on_replicas, estimator):
    grads = make_gradients(8, 3)
    plan = GroupPlan(LABELS, "data", replicas=8, micro_batches=3, estimator=estimator)
    actual = on_replicas(functools.partial(stream, plan), grads)
    if estimator == "halves":  # made of replicas: their own means are the groups
        groups = jax.tree.map(lambda g: g.mean(1), grads)
    else:
        groups = jax.tree.map(lambda g: g.reshape(24, *g.shape[2:]), grads)
    assert_close(actual, mean_and_phi_of_groups(groups, LABELS, estimator))


@pytest.mark.parametrize("check_vma", [False, True])
@pytest.mark.parametrize("split", ["interleaved", "contiguous"])
def test_an_odd_number_of_replicas_halves_its_micro_batches(split, check_vma):
    grads = make_gradients(3, 4)
    plan = GroupPlan(LABELS, "data", replicas=3, micro_batches=4, split=split)
    mesh = jax.make_mesh((3,), ("data",), (AxisType.Auto,), devices=jax.devices()[:3])
    run = jax.shard_map(
        lambda g: stream(plan, jax.tree.map(lambda x: x[0], g)),
        mesh=mesh,
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec(),
        check_vma=check_vma,
    )
    groups = jax.tree.map(lambda g: g.mean(0), grads)  # over replicas
    expected = mean_and_phi_of_groups(groups, LABELS, "halves", split)
    assert_close(jax.jit(run)(grads), expected)


def test_replicas_keep_one_copy_of_the_gradients_and_halves_at_most_two():
    size = sum(p.size for p in PARAMS.values())
    copies = {
        ("norms", 1, 4): 1,
        ("norms", 8, 4): 1,
        ("halves", 8, 4): 1,  # the replicas are the halves
        ("halves", 1, 4): 2,
    }
    for (estimator, replicas, micro_batches), expected in copies.items():
        plan = GroupPlan(
            LABELS,
            "data" if replicas > 1 else None,
            replicas,
            micro_batches,
            estimator,
        )
        empty = jax.vmap(
            lambda _, plan=plan: plan.init(PARAMS).sums,
            axis_name="data",
            axis_size=replicas,
        )
        sums = jax.eval_shape(empty, jnp.zeros(replicas))
        kept = sum(leaf.size for leaf in jax.tree.leaves(sums)) / replicas
        assert kept == expected * size, (estimator, replicas)


def test_the_compiled_scan_needs_no_second_copy_for_replicas():
    size = 4 * 512 * 1024
    params = {"backbone": np.zeros((512, 1024), np.float32)}
    labels = label_tree(params)

    def step(plan):
        def run(params, batch):
            grad = jax.grad(lambda p, x: jnp.sum(jnp.tanh(p["backbone"] @ x) ** 2))

            def add(accumulator, x):
                return plan.add(accumulator, grad(params, x)), None

            return plan.finish(jax.lax.scan(add, plan.init(params), batch)[0])

        batch = np.zeros((4, 1024, 2), np.float32)
        memory = jax.jit(run).lower(params, batch).compile().memory_analysis()
        return memory.temp_size_in_bytes

    replicas = step(GroupPlan(labels, micro_batches=4, estimator="norms"))
    halves = step(GroupPlan(labels, micro_batches=4, estimator="halves"))
    # The sum and the gradient being added; halves have one sum more.
    assert replicas < 2.2 * size
    assert halves < 3.2 * size


def test_sums_over_micro_batches_are_float32_for_bfloat16_gradients():
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.bfloat16), PARAMS)
    plan = GroupPlan(LABELS, micro_batches=2)
    assert plan.init(params).sums[0]["head"].dtype == jnp.float32
    single = GroupPlan(LABELS, "data", replicas=2)
    sums = jax.vmap(
        lambda _: single.init(params).sums, axis_name="data", out_axes=None
    )(jnp.zeros(2))
    assert sums[0]["head"].dtype == jnp.bfloat16


def test_a_training_step_in_micro_batches_measures_what_the_whole_would():
    data = RNG.normal(size=(12, 5)).astype(np.float32)
    params = {"backbone": RNG.normal(size=5).astype(np.float32)}
    labels = label_tree(params)
    loss_and_grad = value_and_local_grad(
        lambda p, x: jnp.mean(jnp.tanh(x @ p["backbone"])), has_aux=False
    )
    plan = GroupPlan(labels, micro_batches=4)
    micro_batches = split_batch(data, 4)
    accumulator = plan.init(params)
    for x in micro_batches:
        accumulator = plan.add(accumulator, loss_and_grad(params, x)[1])
    mean, stats = plan.finish(accumulator)
    assert_close(mean, loss_and_grad(params, data)[1])
    stacked = jax.vmap(lambda x: loss_and_grad(params, x)[1])(micro_batches)
    assert_close(stats, mean_and_phi_of_groups(stacked, labels)[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(), "1 group"),
        (dict(micro_batches=3), "3 groups.*'norms'"),
        (dict(micro_batches=0), "micro_batches=0.*at least 1"),
        (dict(replicas=2), "axis_name="),
        (dict(micro_batches=2, estimator="thirds"), "'thirds'"),
        (dict(micro_batches=2, split="odd"), "'odd'"),
    ],
)
def test_plans_that_cannot_measure_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GroupPlan(LABELS, **arguments)


def test_another_number_of_micro_batches_than_planned_is_refused():
    plan = GroupPlan(LABELS, micro_batches=2)
    accumulator = plan.add(plan.init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match="2 micro-batches but 1.*equal size"):
        plan.finish(accumulator)


def test_another_number_of_replicas_than_planned_is_refused():
    plan = GroupPlan(LABELS, "data", replicas=4)
    with pytest.raises(ValueError, match="4 replicas but the axis 'data' has 2"):
        jax.vmap(
            lambda g: plan.finish(plan.add(plan.init(PARAMS), g)), axis_name="data"
        )(make_gradients(2))


def test_a_batch_that_groups_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="batch of 10 does not make 4 groups"):
        split_batch(np.zeros((10, 2)), 4)
