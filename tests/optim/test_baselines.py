"""The baselines against Optax and against their authors' formulas in NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, PartitionSpec

from agvm_jax.optim import baselines


def params():
    return {
        "kernel": jnp.linspace(-1.0, 2.0, 12).reshape(4, 3),
        "bias": jnp.array([0.5, -1.0, 2.0]),
    }


def grads(step):
    keys = jax.random.split(jax.random.key(step), 2)
    return {
        "kernel": jax.random.normal(keys[0], (4, 3)),
        "bias": jax.random.normal(keys[1], (3,)),
    }


def run(tx, steps, jit=True):
    """Return the parameters after each of `steps` steps on fixed random gradients."""
    update = jax.jit(tx.update) if jit else tx.update
    weights, path = params(), []
    state = tx.init(weights)
    for step in range(steps):
        updates, state = update(grads(step), state, weights)
        weights = optax.apply_updates(weights, updates)
        path.append(jax.tree.map(np.asarray, weights))
    return path


def test_sgd_is_pytorchs_with_the_decay_inside_the_momentum():
    path = run(baselines.sgd(0.1, momentum=0.9, weight_decay=0.01), 4)
    weights = {k: np.asarray(v, np.float64) for k, v in params().items()}
    buffers = {k: 0.0 for k in weights}
    for step in range(4):
        for k, g in grads(step).items():
            buffers[k] = 0.9 * buffers[k] + np.asarray(g) + 0.01 * weights[k]
            weights[k] = weights[k] - 0.1 * buffers[k]
        chex.assert_trees_all_close(path[step], weights, rtol=1e-5)


def test_lars_is_the_papers_and_leaves_biases_alone():
    path = run(baselines.lars(2.0, 0.9, 0.01, trust_coefficient=0.02), 4)
    weights = {k: np.asarray(v, np.float64) for k, v in params().items()}
    buffers = {k: 0.0 for k in weights}
    for step in range(4):
        for k, g in grads(step).items():
            g, w = np.asarray(g, np.float64), weights[k]
            if k == "kernel":
                g = g + 0.01 * w
                g = g * 0.02 * np.linalg.norm(w) / np.linalg.norm(g)
            buffers[k] = 0.9 * buffers[k] + 2.0 * g
            weights[k] = w - buffers[k]
        chex.assert_trees_all_close(path[step], weights, rtol=1e-5)


def test_lamb_is_the_official_one_and_leaves_biases_alone():
    path = run(baselines.lamb(0.01, weight_decay=0.1), 4)
    weights = {k: np.asarray(v, np.float64) for k, v in params().items()}
    m, v = {k: 0.0 for k in weights}, {k: 0.0 for k in weights}
    for step in range(4):
        for k, g in grads(step).items():
            g, w = np.asarray(g, np.float64), weights[k]
            m[k] = 0.9 * m[k] + 0.1 * g
            v[k] = 0.999 * v[k] + 0.001 * g * g
            m_hat, v_hat = (
                m[k] / (1 - 0.9 ** (step + 1)),
                v[k] / (1 - 0.999 ** (step + 1)),
            )
            u = m_hat / (np.sqrt(v_hat) + 1e-6)
            if k == "kernel":
                u = u + 0.1 * w
                u = u * np.linalg.norm(w) / np.linalg.norm(u)
            weights[k] = w - 0.01 * u
        chex.assert_trees_all_close(path[step], weights, rtol=2e-5)


@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("mask", [None, baselines.matrices_only])
def test_pmd_lamb_without_decay_is_lamb_bit_for_bit(mask, jit):
    if mask is None:
        plain = optax.lamb(0.01, weight_decay=0.1)
    else:
        plain = baselines.lamb(0.01, weight_decay=0.1)
    pmd = baselines.pmd_lamb(0.01, weight_decay=0.1, period=3, decay=1.0, mask=mask)
    chex.assert_trees_all_equal(run(pmd, 8, jit), run(plain, 8, jit))


def test_pmd_lamb_with_decay_departs_from_lamb_after_the_first_period():
    plain = run(baselines.lamb(0.01), 5)
    pmd = run(baselines.pmd_lamb(0.01, period=3, decay=0.1), 5)
    chex.assert_trees_all_close(pmd[:3], plain[:3], rtol=1e-6)
    assert np.abs(pmd[3]["kernel"] - plain[3]["kernel"]).max() > 1e-4


def test_decayed_moments_remain_averages_of_past_gradients():
    """The oracle keeps every past gradient's weight in a list of its own."""
    period, decay, b1, b2, steps = 3, 0.25, 0.9, 0.999, 8
    tx = baselines.scale_by_periodic_moments(b1, b2, 0.0, period, decay)
    state = tx.init(params())
    weights_1, weights_2, past = [], [], []
    for step in range(steps):
        past.append(np.asarray(grads(step)["kernel"], np.float64))
        weights_1 = [w * b1 for w in weights_1] + [1 - b1]
        weights_2 = [w * b2 for w in weights_2] + [1 - b2]
        mean = np.average(past, axis=0, weights=weights_1)
        square = np.average(np.square(past), axis=0, weights=weights_2)
        updates, state = tx.update(grads(step), state)
        np.testing.assert_allclose(
            updates["kernel"], mean / np.sqrt(square), rtol=3e-4, atol=1e-5
        )
        if (step + 1) % period == 0:
            weights_1 = [w * decay for w in weights_1]
            weights_2 = [w * decay for w in weights_2]


def test_a_decay_of_zero_restarts_the_moments():
    tx = baselines.scale_by_periodic_moments(period=2, decay=0.0)
    state = tx.init(params())
    for step in range(2):
        _, state = tx.update(grads(step), state)
    updates, _ = tx.update(grads(7), state)
    fresh, _ = tx.update(grads(7), tx.init(params()))
    chex.assert_trees_all_close(updates, fresh, rtol=1e-4)


@pytest.mark.parametrize(
    "knobs, words", [(dict(period=0), "0 steps"), (dict(decay=1.5), "decay is 1.5")]
)
def test_pmd_lamb_refuses_knobs_without_a_meaning(knobs, words):
    with pytest.raises(ValueError, match=words):
        baselines.pmd_lamb(0.1, **knobs)


def quadratic(weights, target):
    loss = sum(
        jnp.sum((w - target) ** 2 * s)
        for w, s in zip(jax.tree.leaves(weights), (1.0, 3.0), strict=True)
    )
    return loss, {"seen": loss}


def test_sam_takes_the_gradient_uphill_and_the_value_where_it_stands():
    clean = jax.value_and_grad(quadratic, has_aux=True)
    value, sharp = jax.jit(baselines.sam_value_and_grad(clean, 0.1))(params(), 0.3)
    expected_value, first = clean(params(), 0.3)
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in first.values()))
    uphill = jax.tree.map(lambda w, g: w + 0.1 * g / norm, params(), first)
    chex.assert_trees_all_close(value, expected_value, rtol=1e-6)
    chex.assert_trees_all_close(sharp, clean(uphill, 0.3)[1], rtol=1e-5)


def test_sam_makes_the_step_that_optax_sam_makes():
    clean = jax.value_and_grad(quadratic, has_aux=True)
    _, sharp = baselines.sam_value_and_grad(clean, 0.1)(params(), 0.3)
    tx = optax.sgd(0.05)
    ours, _ = tx.update(sharp, tx.init(params()))

    theirs_tx = optax.contrib.sam(
        tx,
        optax.chain(optax.contrib.normalize(), optax.sgd(0.1)),
        opaque_mode=True,
    )
    theirs, _ = theirs_tx.update(
        clean(params(), 0.3)[1],
        theirs_tx.init(params()),
        params(),
        grad_fn=lambda p, _: clean(p, 0.3)[1],
    )
    chex.assert_trees_all_close(ours, theirs, rtol=1e-5)


def test_sam_stays_where_the_gradient_is_zero():
    clean = jax.value_and_grad(quadratic, has_aux=True)
    flat = jax.tree.map(lambda w: jnp.full_like(w, 0.3), params())
    _, sharp = baselines.sam_value_and_grad(clean, 0.1)(flat, 0.3)
    chex.assert_trees_all_equal(sharp, optax.tree.zeros_like(flat))


@pytest.mark.parametrize("synced", [False, True])
def test_sam_perturbs_each_replica_or_all_alike(synced):
    """Two replicas with targets of their own, against the same sums by hand."""
    clean = jax.value_and_grad(quadratic, has_aux=True)
    targets = jnp.array([0.0, 1.0])
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    sam = baselines.sam_value_and_grad(clean, 0.5, axis_name="data", synced=synced)

    def replica(weights, target):
        _, g = sam(weights, target[0])
        return jax.tree.map(lambda x: x[None], g)

    spec = PartitionSpec("data")
    local = jax.jit(
        jax.shard_map(
            replica,
            mesh=mesh,
            in_specs=(PartitionSpec(), spec),
            out_specs=spec,
            check_vma=False,
        )
    )(params(), targets)

    firsts = [clean(params(), t)[1] for t in targets]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *firsts)
    for r, target in enumerate(targets):
        first = mean if synced else firsts[r]
        norm = optax.tree.norm(first)
        uphill = jax.tree.map(lambda w, g, n=norm: w + 0.5 * g / n, params(), first)
        mine = jax.tree.map(lambda x, r=r: x[r], local)
        chex.assert_trees_all_close(mine, clean(uphill, target)[1], rtol=1e-5)


@pytest.mark.parametrize("rho", [-0.1, float("inf"), float("nan")])
def test_sam_refuses_a_radius_that_is_none(rho):
    with pytest.raises(ValueError, match="rho is"):
        baselines.sam_value_and_grad(quadratic, rho)


def test_synced_sam_asks_for_the_axis():
    with pytest.raises(ValueError, match="give axis_name"):
        baselines.sam_value_and_grad(quadratic, 0.1, synced=True)
