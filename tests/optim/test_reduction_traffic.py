"""What a measurement moves between devices, read from the compiled programs."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from replica_cases import GRADS, LABELS, assert_close, each_estimator, make_mesh

from agvm_jax.compiling.collectives import collectives
from agvm_jax.optim import label_tree, mean_and_phi, mean_and_phi_of_groups
from agvm_jax.optim.reduction import mean_gradients


def lower(fn, check_vma=False):
    run = jax.shard_map(
        lambda g: fn(jax.tree.map(lambda x: x[0], g)),
        mesh=make_mesh((8,), ("data",)),
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec(),
        check_vma=check_vma,
    )
    return jax.jit(run).lower(GRADS_OF_2048).compile().as_text()


GRADS_OF_2048 = {
    "backbone": {"w": np.ones((8, 32, 24), np.float32), "b": np.ones((8, 256), "f4")},
    "head": np.ones((8, 1024), np.float32),
}
BIG_LABELS = label_tree(GRADS_OF_2048)


def traffic(program):
    """Return bytes a device sends, by ring accounting, and how many collectives."""
    found = collectives(program, num_devices=8)
    return sum(c.moved for c in found), len(found)


@pytest.mark.parametrize("check_vma", [False, True])
def test_halves_and_replicas_move_no_more_bytes_than_a_plain_mean(check_vma):
    plain, _ = traffic(lower(lambda g: mean_gradients(g, "data"), check_vma))
    assert plain == 2 * 2048 * 4 * 7 / 8
    scalars = 2 * 4 * 7 / 8  # what a psum of one scalar moves
    for estimator, per_module in (("halves", 3), ("norms", 1)):
        program = lower(
            lambda g, e=estimator: mean_and_phi(g, "data", BIG_LABELS, e), check_vma
        )
        moved, _ = traffic(program)
        assert moved == plain + 2 * per_module * scalars, estimator


def test_halves_take_three_collectives_a_module_not_one_a_leaf():
    _, count = traffic(lower(lambda g: mean_and_phi(g, "data", BIG_LABELS)))
    assert count == 2 * 3 + 1


def test_masks_move_twice_the_bytes_as_the_paper_does():
    plain, _ = traffic(lower(lambda g: mean_gradients(g, "data")))
    masked = lower(lambda g: mean_and_phi(g, "data", BIG_LABELS, route="masked"))
    assert traffic(masked)[0] == 2 * plain


@pytest.mark.parametrize("check_vma", [False, True])
@each_estimator
def test_parameters_sharded_over_another_axis_are_not_gathered(
    estimator, split, check_vma
):
    mesh = make_mesh((4, 2), ("data", "model"))
    grads = {
        "backbone": np.random.default_rng(0).normal(size=(4, 8, 6)).astype("f4"),
        "head": np.random.default_rng(1).normal(size=(4, 8)).astype("f4"),
    }
    labels = {"backbone": "backbone", "head": "head"}

    def measure(grads):
        grads = jax.tree.map(lambda g: g[0], grads)
        return mean_and_phi(grads, "data", labels, estimator, split)

    run = jax.jit(
        jax.shard_map(
            measure,
            mesh=mesh,
            in_specs=PartitionSpec("data"),
            out_specs=PartitionSpec(),
            axis_names={"data"},
            check_vma=check_vma,
        )
    )
    sharded = jax.device_put(grads, NamedSharding(mesh, PartitionSpec("data", "model")))
    mean, stats = run(sharded)
    expected = mean_and_phi_of_groups(grads, labels, estimator, split)
    assert_close((mean, stats), expected)
    assert mean["backbone"].sharding.spec == PartitionSpec("model")
    assert "all-gather" not in run.lower(sharded).compile().as_text()


@each_estimator
def test_plain_jit_measures_over_a_sharded_leading_axis(estimator, split):
    sharding = NamedSharding(make_mesh((8,), ("data",)), PartitionSpec("data"))
    grads = jax.device_put(GRADS, sharding)

    @jax.jit
    def measure(grads):
        return mean_and_phi_of_groups(grads, LABELS, estimator, split)

    expected = mean_and_phi_of_groups(GRADS, LABELS, estimator, split)
    assert_close(measure(grads), expected)
    program = measure.lower(grads).compile().as_text()
    assert "all-reduce" in program and "all-gather" not in program
