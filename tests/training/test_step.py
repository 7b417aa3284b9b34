"""One optimizer step: groups, reduction, update, and what happens to bad numbers."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agvm_jax.compiling.collectives import collectives
from agvm_jax.optim.modules import label_tree
from agvm_jax.optim.noise import noise_init
from agvm_jax.optim.stacked import phi_of_groups
from agvm_jax.training import mesh as mesh_lib
from agvm_jax.training.batching import plan_batches
from agvm_jax.training.recipes import build_optimizer
from agvm_jax.training.state import create_state
from agvm_jax.training.step import TrainStep
from agvm_jax.training.update import with_counts_of
from configs import base

FEATURES = 6


def loss(params, model_state, batch, key):
    """Least squares with two modules, and a running mean as BatchNorm has."""
    del key
    hidden = jnp.tanh(batch["x"] @ params["backbone"]["w"])
    error = hidden @ params["head"]["w"] - batch["y"]
    value = jnp.mean(error**2)
    model_state = {"mean": 0.9 * model_state["mean"] + 0.1 * batch["x"].mean(0)}
    return value, (model_state, {"square": value})


def replica_loss(params, model_state, batch, key):
    """The same on one of several replicas; the running mean is that of all."""
    value, (model_state, parts) = loss(params, model_state, batch, key)
    return value, (jax.lax.pmean(model_state, mesh_lib.DATA_AXIS), parts)


def make_params():
    rng = np.random.default_rng(0)
    return {
        "backbone": {"w": jnp.asarray(rng.normal(size=(FEATURES, 4)), jnp.float32)},
        "head": {"w": jnp.asarray(rng.normal(size=(4,)), jnp.float32)},
    }


def make_batch(rows=16, seed=1):
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(size=(rows, FEATURES)).astype(np.float32),
        "y": rng.normal(size=(rows,)).astype(np.float32),
    }


def make_config(**overrides):
    config = base.get_config()
    config.optim.name = "sgd"
    config.optim.lr = 0.1
    config.optim.lr_rule = "none"
    config.optim.warmup_steps = 0
    config.optim.schedule = "constant"
    config.agvm.start_step = 0
    config.agvm.tau = 1
    config.update_from_flattened_dict(overrides)
    return config


def make_recipe(batch_size=16, **overrides):
    config = make_config(**overrides)
    return build_optimizer(
        config.optim,
        config.agvm,
        batch_size=batch_size,
        total_steps=10,
        steps_per_epoch=10,
    )


def make_step(devices, micro_batch_size=0, batch_size=16, num_images=None, **overrides):
    config = make_config(**overrides)
    recipe = make_recipe(batch_size, **overrides)
    mesh = mesh_lib.data_mesh(jax.devices()[:devices])
    estimator = config.agvm.estimator if config.agvm.enabled else None
    plan = plan_batches(batch_size, devices, micro_batch_size, estimator=estimator)
    params = make_params()
    labels = label_tree(params)
    state = create_state(
        params,
        {"mean": jnp.zeros(FEATURES)},
        recipe.tx.init(params),
        noise_init(("backbone", "head")),
        seed=0,
    )
    step = TrainStep(replica_loss, recipe, plan, mesh, labels, num_images)
    return step, mesh_lib.put_replicated(mesh, state), plan, mesh


def passes(batch, plan, mesh):
    """Cuts a batch into micro-batches, image r of a pass going to replica r."""
    size = plan.images_per_pass
    for i in range(plan.micro_batches):
        rows = jax.tree.map(lambda leaf, i=i: leaf[i * size : (i + 1) * size], batch)
        yield mesh_lib.put_batch(mesh, rows)


def run(step, state, plan, mesh, batch, index=0):
    state, metrics = step(state, passes(batch, plan, mesh), index)
    return jax.device_get(state), jax.device_get(metrics)


@pytest.mark.parametrize("devices, micro", [(1, 16), (1, 4), (2, 4), (8, 2), (4, 1)])
def test_the_update_is_that_of_the_whole_batch_however_it_is_divided(devices, micro):
    settings = {"agvm.enabled": False}
    step, state, plan, mesh = make_step(devices, micro, **settings)
    after, metrics = run(step, state, plan, mesh, make_batch())
    params = make_params()
    grads = jax.grad(lambda p: loss(p, {"mean": 0.0}, make_batch(), None)[0])(params)
    expected = optax.apply_updates(
        params, jax.tree.map(lambda g, p: -0.1 * (g + 1e-4 * p), grads, params)
    )
    chex.assert_trees_all_close(after.params, expected, atol=1e-5)
    assert int(after.step) == 1
    np.testing.assert_allclose(
        metrics["grad_norm"], float(optax.tree.norm(grads)), rtol=1e-5
    )


@pytest.mark.parametrize("estimator", ["halves", "norms"])
@pytest.mark.parametrize("devices, micro", [(1, 4), (4, 4), (2, 2)])
def test_phi_is_that_of_the_groups(devices, micro, estimator):
    settings = {"agvm.estimator": estimator}
    step, state, plan, mesh = make_step(devices, micro, **settings)
    _, metrics = run(step, state, plan, mesh, make_batch())
    # The gradient of every (replica, micro-batch), replica by replica.
    batch, size = make_batch(), plan.micro_batch_size
    per_group = []
    for replica in range(devices):
        for index in range(plan.micro_batches):
            start = index * plan.images_per_pass + replica * size
            rows = jax.tree.map(lambda leaf, s=start: leaf[s : s + size], batch)
            grad = jax.grad(lambda p, rows=rows: loss(p, {"mean": 0.0}, rows, None)[0])
            per_group.append(grad(make_params()))
    stacked = jax.tree.map(lambda *g: jnp.stack(g), *per_group)
    if estimator == "halves" and devices > 1:  # halves are made of replicas
        stacked = jax.tree.map(
            lambda g: g.reshape(devices, -1, *g.shape[1:]).mean(1), stacked
        )
    phi = phi_of_groups(stacked, label_tree(make_params()), estimator)
    for name in ("backbone", "head"):
        np.testing.assert_allclose(metrics[f"phi/{name}"], phi[name], rtol=1e-4)
        ratio = np.sqrt(np.clip((phi["backbone"] + 1e-6) / (phi[name] + 1e-6), 0.5, 10))
        np.testing.assert_allclose(
            metrics[f"mu/{name}"], 0.97 + 0.03 * ratio, rtol=1e-4
        )


def test_a_step_that_is_not_finite_changes_nothing_but_the_counters():
    step, state, plan, mesh = make_step(4)
    state, _ = step(state, passes(make_batch(), plan, mesh), 0)
    before = jax.device_get(state)
    bad = make_batch(seed=2)
    bad["y"][5] = np.nan
    after, metrics = run(step, state, plan, mesh, bad)
    assert not metrics["finite"] and metrics["skipped"] == 1
    assert not np.isfinite(metrics["grad_norm/head"])
    chex.assert_trees_all_equal(after.params, before.params)
    for name in ("mu", "phi", "measured"):
        chex.assert_trees_all_equal(
            getattr(optax.tree.get(after.opt_state, "AgvmState"), name),
            getattr(optax.tree.get(before.opt_state, "AgvmState"), name),
        )
    moved = with_counts_of(before.opt_state, after.opt_state)
    chex.assert_trees_all_equal(moved, before.opt_state)
    counts = optax.tree.get_all_with_path(after.opt_state, "count")
    assert len(counts) == 2 and all(count == 2 for _, count in counts)
    chex.assert_trees_all_equal(after.model_state, before.model_state)
    chex.assert_trees_all_equal(after.noise, before.noise)
    assert (int(after.step), int(after.skipped)) == (2, 1)
    again = mesh_lib.put_replicated(mesh, after)
    good, metrics = run(step, again, plan, mesh, make_batch(seed=3))
    assert metrics["finite"] and int(good.skipped) == 0


def test_running_statistics_are_those_of_the_loss():
    step, state, plan, mesh = make_step(8)
    after, _ = run(step, state, plan, mesh, make_batch())
    expected = 0.1 * make_batch()["x"].mean(0)
    np.testing.assert_allclose(after.model_state["mean"], expected, atol=1e-6)


def test_noise_scale_is_measured_without_agvm_too():
    step, state, plan, mesh = make_step(8, **{"agvm.enabled": False})
    after, metrics = run(step, state, plan, mesh, make_batch())
    assert int(after.noise.count) == 1
    assert "phi/head" in metrics and "mu/head" not in metrics


def test_a_second_step_compiles_nothing():
    step, state, plan, mesh = make_step(2, micro_batch_size=4)
    state, _ = step(state, passes(make_batch(), plan, mesh), 0)
    programs = (step.start, step.accumulate, step.programs[True]["apply"])
    sizes = [f._cache_size() for f in programs]
    state, _ = step(state, passes(make_batch(seed=2), plan, mesh), 1)
    assert [f._cache_size() for f in programs] == sizes == [1, 1, 1]


@pytest.mark.parametrize("micro_batch_size", [0, 1])
def test_between_measurements_nothing_is_measured_and_nothing_is_paid(micro_batch_size):
    options = {"agvm.tau": 2, "agvm.start_step": 2}
    step, state, plan, mesh = make_step(4, micro_batch_size, batch_size=8, **options)
    batch = make_batch(rows=8)
    assert [step.measures(i) for i in range(4)] == [True, False, True, False]
    mus, noise = [], []
    for index in range(5):
        state, metrics = run(step, state, plan, mesh, batch, index)
        measured = any(k.startswith(("phi/", "update_variance/")) for k in metrics)
        assert measured == step.measures(index)
        mus.append(float(metrics["mu/head"]))
        noise.append(int(state.noise.count))
        state = mesh_lib.put_replicated(mesh, state)
    assert mus[0] == mus[1] == 1.0 != mus[2] == mus[3] != mus[4]
    assert noise == [1, 1, 2, 2, 3]
    # The paper's halves of four replicas are taken apart and put together again.
    name = "single" if plan.micro_batches == 1 else "apply"
    given = next(passes(batch, plan, mesh))
    if name == "apply":
        given = step.accumulate(state, step.start(state, given), given, jnp.int32(0))
    for measure, expected in ((True, {"reduce-scatter", "all-gather"}), (False, set())):
        program = step.programs[measure][name].lower(state, given).compile()
        kinds = {kind for kind, *_ in collectives(program.as_text(), 4)}
        assert kinds - {"all-reduce", "collective-permute"} == expected


def test_the_variance_of_the_update_is_equation_3():
    """With the rate of this very step, which the warm-up raises each time."""
    settings = {"optim.warmup_steps": 4, "optim.warmup_ratio": 0.5}
    step, state, plan, mesh = make_step(4, num_images=48, **settings)
    _, metrics = run(step, state, plan, mesh, make_batch())
    share = (48 - 16) / (2 * 48 - 16)
    rate = 0.5 * 0.1
    for name in ("backbone", "head"):
        expected = share * rate**2 * metrics[f"phi/{name}"]
        expected *= metrics[f"grad_norm/{name}"] ** 2
        actual = metrics[f"update_variance/{name}"]
        np.testing.assert_allclose(actual, expected, rtol=1e-4)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "pmd_lamb"])
def test_the_rate_follows_the_batches_consumed_whatever_was_skipped(optimizer):
    """The rate that is logged is the one used, and a cosine ends with the run."""
    settings = {
        "optim.name": optimizer,
        "optim.schedule": "cosine",
        "optim.momentum": 0.0,
        "optim.weight_decay": 0.0,
        "optim.clip_norm": 1e9,
        "optim.clip_window": (2, -1),
        "agvm.enabled": optimizer != "sgd",
    }
    step, state, plan, mesh = make_step(4, **settings)
    rate = make_recipe(**settings).schedule
    for number in range(10):
        batch = make_batch(seed=number)
        if number in (0, 3, 4, 8):
            batch["y"][2] = np.inf
        before = jax.device_get(state.params)
        state, metrics = step(state, passes(batch, plan, mesh), number)
        if optimizer == "sgd" and metrics["finite"]:
            grads = jax.grad(lambda p, b=batch: loss(p, {"mean": 0.0}, b, None)[0])
            used = jax.tree.map(
                lambda old, new, g: np.vdot(old - new, g) / np.vdot(g, g),
                before,
                jax.device_get(state.params),
                grads(before),
            )
            for value in jax.tree.leaves(used):
                np.testing.assert_allclose(value, rate(number), rtol=1e-3)
    counts = [
        leaf
        for leaf in jax.tree.leaves(state.opt_state)
        if leaf.ndim == 0 and jnp.issubdtype(leaf.dtype, jnp.integer)
    ]
    assert len(counts) >= 2 and all(int(count) == 10 for count in counts)
    assert float(rate(counts[0])) < 1e-9 < float(rate(9))
