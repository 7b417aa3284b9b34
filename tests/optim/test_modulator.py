"""mu against equations 4 and 5, what must not disturb it, and what is refused."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from agvm_jax.optim import AgvmState, agvm, chain, modulate, phi_of_groups
from agvm_jax.optim.smoothing import variance_ratios

PARAMS = {"backbone": jnp.ones(3), "fpn": jnp.ones((2, 2)), "head": jnp.ones(2)}
GRADS = jax.tree.map(lambda p: 0.5 * jnp.ones_like(p), PARAMS)
PHI = {"backbone": 0.9, "fpn": 0.3, "head": 1.2}
NAN = dict.fromkeys(PHI, float("nan"))


def run(tx, phis, params=PARAMS):
    """Return the state after updates with each phi in turn."""
    state = tx.init(params)
    update = jax.jit(tx.update)
    for phi in phis:
        phi = {m: jnp.float32(value) for m, value in phi.items()}
        _, state = update(GRADS, state, params, phi=phi)
    return optax.tree.get(state, "AgvmState")


def numpy_mu(phis, tau=1, alpha=0.97, start=0, clip=(0.5, 10.0), eps=1e-6):
    mu = dict.fromkeys(PHI, 1.0)
    for t, phi in enumerate(phis):
        if t >= start and t % tau == 0:
            for m in mu:
                ratio = np.clip((phi["backbone"] + eps) / (phi[m] + eps), *clip)
                mu[m] = alpha * mu[m] + (1 - alpha) * np.sqrt(ratio)
    return mu


def some_phis(count, seed=0):
    rng = np.random.default_rng(seed)
    return [{m: rng.uniform(0.02, 2) for m in PHI} for _ in range(count)]


@pytest.mark.parametrize(
    "options",
    [
        dict(tau=1),
        dict(tau=10),
        dict(tau=3, alpha=0.5, start=7),
        dict(tau=1, alpha=0.0, clip=(0.25, 4.0), eps=0.1),
        dict(tau=2, clip=(0.0, np.inf)),
    ],
)
def test_mu_is_equations_4_and_5(options):
    phis = some_phis(25)
    given = {"start_step" if k == "start" else k: v for k, v in options.items()}
    state = run(agvm(**given), phis)
    for m, expected in numpy_mu(phis, **options).items():
        np.testing.assert_allclose(state.mu[m], expected, rtol=1e-5)
    assert state.mu["backbone"] == 1.0
    assert state.count == 25


def test_no_clip_is_the_papers_unbounded_ratio():
    phi = {"backbone": 1.9, "fpn": 1e-5, "head": 1.9}
    state = run(agvm(clip=None, alpha=0.0, eps=0.0), [phi])
    np.testing.assert_allclose(state.mu["fpn"], np.sqrt(1.9e5), rtol=1e-5)


@pytest.mark.parametrize("anchor", sorted(PHI))
def test_any_module_can_be_the_anchor(anchor):
    state = run(agvm(anchor=anchor, alpha=0.0, clip=None), [PHI])
    for m in PHI:
        expected = np.sqrt(PHI[anchor] / PHI[m])
        np.testing.assert_allclose(state.mu[m], expected, rtol=1e-5)


def test_debiasing_gives_the_mean_of_what_was_measured_weighted_towards_the_last():
    phis = some_phis(6)
    state = run(agvm(tau=1, alpha=0.8, debias=True), phis)
    roots = [np.sqrt(np.clip(p["backbone"] / p["head"], 0.5, 10)) for p in phis]
    weights = 0.8 ** np.arange(6)[::-1]
    expected = (weights * roots).sum() / weights.sum()
    np.testing.assert_allclose(state.mu["head"], expected, rtol=1e-5)
    first = run(agvm(alpha=0.97, debias=True), [PHI])
    np.testing.assert_allclose(first.mu["fpn"], np.sqrt(3), rtol=1e-5)


def test_tau_and_alpha_may_be_schedules():
    phis = some_phis(12)
    tau = lambda count: jnp.where(count < 6, 1, 4)  # noqa: E731
    alpha = optax.linear_schedule(0.5, 0.9, 12)
    state = run(agvm(tau=tau, alpha=alpha), phis)
    mu = 1.0
    for t, phi in enumerate(phis):
        if t < 6 or t % 4 == 0:
            ratio = np.clip((phi["backbone"] + 1e-6) / (phi["fpn"] + 1e-6), 0.5, 10)
            a = 0.5 + 0.4 * t / 12
            mu = a * mu + (1 - a) * np.sqrt(ratio)
    np.testing.assert_allclose(state.mu["fpn"], mu, rtol=1e-5)


@pytest.mark.parametrize("rule", ["sgd", "adamw"])
def test_modulate_is_algorithms_1_and_2(rule):
    """Momentum and decay of module i are scaled by mu_i with the rest of its update."""
    rng = np.random.default_rng(1)
    lr, decay, steps = 0.1, 0.01, 12
    if rule == "sgd":
        inner = optax.chain(optax.add_decayed_weights(decay), optax.sgd(lr, 0.9))
    else:
        inner = optax.adamw(lr, weight_decay=decay)
    tx = modulate(inner, tau=2, alpha=0.5, start_step=2)
    phis = some_phis(steps, 2)
    start = {m: rng.normal(size=np.shape(p)) for m, p in PARAMS.items()}
    ours = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), start)
    w = dict(start)
    m1 = {m: np.zeros_like(p) for m, p in w.items()}
    m2 = {m: np.zeros_like(p) for m, p in w.items()}
    state, update = tx.init(ours), jax.jit(tx.update)
    for t in range(steps):
        grads = {m: rng.normal(size=p.shape) for m, p in w.items()}
        mu = numpy_mu(phis[: t + 1], 2, 0.5, 2)
        for m, g in grads.items():
            if rule == "sgd":
                m1[m] = 0.9 * m1[m] + g + decay * w[m]
                w[m] = w[m] - lr * mu[m] * m1[m]
            else:
                m1[m] = 0.9 * m1[m] + 0.1 * g
                m2[m] = 0.999 * m2[m] + 0.001 * g * g
                mean, square = (
                    m1[m] / (1 - 0.9 ** (t + 1)),
                    m2[m] / (1 - 0.999 ** (t + 1)),
                )
                step = mean / (np.sqrt(square) + 1e-8) + decay * w[m]
                w[m] = w[m] - lr * mu[m] * step
        grads = jax.tree.map(lambda g: jnp.asarray(g, jnp.float32), grads)
        updates, state = update(grads, state, ours, phi=phis[t])
        ours = optax.apply_updates(ours, updates)
    assert abs(mu["fpn"] - 1) > 0.05
    for m in w:
        np.testing.assert_allclose(ours[m], w[m], rtol=1e-4, atol=1e-5)


def test_adams_cosine_is_that_of_gradients_over_the_root_of_the_last_v(on_replicas):
    rng = np.random.default_rng(3)
    size = np.array([1.0, 100.0, 0.01], np.float32)
    groups = {
        "backbone": rng.normal(size=(8, 3)).astype("f4") * size,
        "head": rng.normal(size=(8, 3)).astype("f4") * size + 0.5 * size,
    }
    params = {"backbone": jnp.zeros(3), "head": jnp.zeros(3)}

    def two_steps(groups, precondition):
        tx = modulate(optax.adam(0.1), "data", tau=1, precondition=precondition)
        state = tx.init(params)
        for _ in range(2):
            _, state = tx.update(groups, state, params)
        return state[0].phi

    plain, weighted = on_replicas(
        lambda g: (two_steps(g, False), two_steps(g, True)), groups
    )
    v = jax.tree.map(lambda g: 0.001 * g.mean(0) ** 2, groups)
    divided = jax.tree.map(lambda g, v: g / (np.sqrt(v) + 1e-8), groups, v)
    labels = {"backbone": "backbone", "head": "head"}
    for phi, grads in ((plain, groups), (weighted, divided)):
        expected = phi_of_groups(grads, labels)
        for m in labels:
            np.testing.assert_allclose(phi[m], expected[m], rtol=1e-4, atol=1e-6)
    assert abs(plain["head"] - weighted["head"]) > 0.05


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    values=st.lists(
        st.fixed_dictionaries({m: st.floats(width=32) for m in PHI}),
        min_size=1,
        max_size=8,
    ),
    debias=st.booleans(),
)
def test_mu_stays_finite_and_within_its_bounds_whatever_is_measured(values, debias):
    state = debiased_or_not[debias].init(PARAMS)
    for phi in values:
        phi = {m: jnp.float32(p) for m, p in phi.items()}
        state = debiased_update[debias](GRADS, state, phi)
        for m, mu in state.mu.items():
            assert np.sqrt(0.5) - 1e-6 <= mu <= np.sqrt(10) + 1e-6, m
        assert state.mu["backbone"] == 1.0


debiased_or_not = {d: agvm(tau=1, alpha=0.3, debias=d) for d in (False, True)}
debiased_update = {
    d: jax.jit(lambda g, s, phi, tx=tx: tx.update(g, s, phi=phi)[1])
    for d, tx in debiased_or_not.items()
}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_module_without_a_measurement_keeps_its_mu_and_phi(bad):
    tx = agvm(tau=1, alpha=0.5)
    before = run(tx, [PHI])
    after = run(tx, [PHI, {**PHI, "fpn": bad}])
    assert after.mu["fpn"] == before.mu["fpn"]
    assert after.phi["fpn"] == before.phi["fpn"]
    assert after.mu["head"] != before.mu["head"]
    nothing = run(tx, [PHI, {**PHI, "backbone": bad}])
    chex.assert_trees_all_equal(nothing.mu, before.mu)


@pytest.mark.parametrize("estimator", ["halves", "replicas"])
@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_bad_gradients_never_poison_mu(estimator, bad):
    good = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    params = {"backbone": jnp.zeros(3), "head": jnp.zeros(3)}
    tx = agvm("data", tau=1, alpha=0.5, estimator=estimator)

    @functools.partial(jax.vmap, axis_name="data", in_axes=(0, 0, None), out_axes=None)
    def update(backbone, head, state):
        return tx.update({"backbone": backbone, "head": head}, state, params)[1]

    spoiled = good.copy()
    spoiled[:] = bad if bad == 0 else spoiled
    spoiled[1, 1] = bad
    state = update(good, good[::-1] ** 2, tx.init(params))
    worse = update(good, spoiled, state)
    assert worse.mu["head"] == state.mu["head"] and np.isfinite(worse.mu["head"])
    better = update(good, good[::-1] ** 2, worse)
    assert better.mu["head"] != state.mu["head"]


def test_phi_is_nan_until_the_first_measurement():
    state = agvm().init(PARAMS)
    assert all(np.isnan(phi) for phi in state.phi.values())
    assert run(agvm(), [NAN]).mu == dict.fromkeys(PHI, 1.0)


def test_the_ratio_is_clipped_before_the_root():
    phi = {"backbone": jnp.float32(1), "fpn": jnp.float32(1e-4), "head": jnp.float32(2)}
    ratios = variance_ratios(phi, "backbone", (0.81, 4.0))
    np.testing.assert_allclose([ratios["fpn"], ratios["head"]], [2.0, 0.9], rtol=1e-6)


@pytest.mark.parametrize(
    ("tau", "estimator"), [(1, "halves"), (3, "halves"), (3, "replicas")]
)
def test_the_axis_averages_at_every_step_and_measures_at_some(
    on_replicas, tau, estimator
):
    rng = np.random.default_rng(0)
    groups = {
        "backbone": rng.normal(size=(8, 7, 3)).astype(np.float32),
        "head": rng.normal(size=(8, 7, 2)).astype(np.float32),
    }
    params = {"backbone": jnp.zeros(3), "head": jnp.zeros(2)}
    tx = agvm("data", tau=tau, alpha=0.5, estimator=estimator)
    labels = {"backbone": "backbone", "head": "head"}

    def seven_steps(groups):
        def step(state, grads):
            updates, state = tx.update(grads, state, params)
            return state, (updates, state.mu, state.phi)

        return jax.lax.scan(step, tx.init(params), groups)[1]

    updates, mus, phis = on_replicas(seven_steps, groups)
    mu = 1.0
    for t in range(7):
        if t % tau == 0:
            now = jax.tree.map(lambda g, t=t: g[:, t], groups)
            phi = phi_of_groups(now, labels, estimator)
            ratio = (phi["backbone"] + 1e-6) / (phi["head"] + 1e-6)
            mu = 0.5 * mu + 0.5 * np.sqrt(np.clip(ratio, 0.5, 10))
        np.testing.assert_allclose(mus["head"][t], mu, rtol=1e-4)
        np.testing.assert_allclose(phis["head"][t], phi["head"], rtol=1e-4)
        mean = groups["head"][:, t].mean(0)
        np.testing.assert_allclose(updates["head"][t], mu * mean, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_updates_keep_their_dtype_and_the_state_its_types(dtype):
    params = jax.tree.map(lambda p: p.astype(dtype), PARAMS)
    tx = agvm()
    state = tx.init(params)
    updates, after = jax.jit(tx.update)(params, state, params, phi=PHI)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)


def test_nothing_is_compiled_twice_and_buffers_may_be_donated():
    tx = modulate(optax.adamw(1e-3), tau=2)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    @chex.assert_max_traces(n=1)
    def step(params, state, phi):
        updates, state = tx.update(GRADS, state, params, phi=phi)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(jnp.array, PARAMS)
    state = tx.init(params)
    first = state[0].mu["fpn"]
    for phi in some_phis(4):
        phi = {m: jnp.float32(p) for m, p in phi.items()}
        params, state = step(params, state, phi)
    assert first.is_deleted() and state[0].mu["fpn"] != 1.0


def test_hyperparameters_can_be_injected_and_changed():
    def make(learning_rate, alpha, tau):
        return modulate(optax.sgd(learning_rate), alpha=alpha, tau=tau)

    tx = optax.inject_hyperparams(make)(
        learning_rate=0.5, alpha=optax.linear_schedule(0.0, 0.5, 1), tau=1
    )
    state = tx.init(PARAMS)
    _, state = jax.jit(tx.update)(GRADS, state, PARAMS, phi=PHI)
    np.testing.assert_allclose(
        optax.tree.get(state, "AgvmState").mu["fpn"], np.sqrt(3), rtol=1e-5
    )
    updates, state = jax.jit(tx.update)(GRADS, state, PARAMS, phi=PHI)
    assert state.hyperparams["alpha"] == 0.5
    np.testing.assert_allclose(updates["fpn"], -0.25 * np.sqrt(3), rtol=1e-5)
    state.hyperparams["learning_rate"] = jnp.float32(1.0)
    updates, _ = jax.jit(tx.update)(GRADS, state, PARAMS, phi=PHI)
    np.testing.assert_allclose(updates["fpn"], -0.5 * np.sqrt(3), rtol=1e-5)


def test_masked_parameters_are_neither_measured_nor_scaled():
    mask = {"backbone": True, "fpn": False, "head": True}
    tx = optax.masked(agvm(alpha=0.0), mask)
    state = tx.init(PARAMS)
    phi = {"backbone": 0.8, "head": 0.2}
    updates, state = jax.jit(tx.update)(GRADS, state, PARAMS, phi=phi)
    assert set(state.inner_state.mu) == {"backbone", "head"}
    assert updates["fpn"].tolist() == GRADS["fpn"].tolist()
    np.testing.assert_allclose(updates["head"], 1.0, rtol=1e-5)


def test_partition_gives_each_part_its_optimizer():
    parts = {"backbone": "train", "fpn": "train", "head": "frozen"}
    tx = optax.partition(
        {"train": modulate(optax.adamw(0.1), alpha=0.0), "frozen": optax.set_to_zero()},
        parts,
    )
    state = tx.init(PARAMS)
    phi = {"backbone": 0.8, "fpn": 0.2}
    updates, _ = jax.jit(tx.update)(GRADS, state, PARAMS, phi=phi)
    assert not updates["head"].any()
    np.testing.assert_allclose(
        updates["fpn"][0, 0] / updates["backbone"][0], 2.0, rtol=1e-4
    )
    inside = modulate(
        optax.partition(
            {"train": optax.sgd(0.1), "frozen": optax.set_to_zero()}, parts
        ),
        alpha=0.0,
    )
    updates, _ = inside.update(GRADS, inside.init(PARAMS), PARAMS, phi=PHI)
    assert not updates["head"].any() and updates["fpn"].any()


def test_apply_if_finite_skips_a_bad_step_whole():
    tx = optax.apply_if_finite(modulate(optax.sgd(0.1), tau=1, alpha=0.0), 3)
    state = tx.init(PARAMS)
    bad = {**GRADS, "head": jnp.full(2, jnp.nan)}
    update = jax.jit(tx.update)
    updates, state = update(bad, state, PARAMS, phi=PHI)
    assert optax.tree.get(state, "AgvmState").mu["fpn"] == 1.0
    assert not any(u.any() for u in updates.values())
    updates, state = update(GRADS, state, PARAMS, phi=PHI)
    assert optax.tree.get(state, "AgvmState").mu["fpn"] > 1.5


def test_parameters_sharded_over_devices_stay_sharded():
    mesh = jax.make_mesh((8,), ("model",), (AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("model"))
    params = {
        "backbone": jax.device_put(jnp.ones((8, 2)), sharding),
        "head": jax.device_put(jnp.ones(16), sharding),
    }
    tx = modulate(optax.sgd(0.1, momentum=0.9), alpha=0.0)
    state = jax.jit(tx.init)(params)
    phi = {"backbone": 0.8, "head": 0.2}
    updates, after = jax.jit(tx.update)(params, state, params, phi=phi)
    for leaf in jax.tree.leaves(updates):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    assert after[0].mu["head"].sharding.is_fully_replicated
    np.testing.assert_allclose(updates["head"], -0.2, rtol=1e-5)


def test_the_state_says_what_it_is():
    tx = chain(optax.clip(1.0), agvm(), optax.adam(1e-3))
    state = tx.init(PARAMS)
    found = optax.tree.get(state, "AgvmState")
    assert isinstance(found, AgvmState) and found is state[1]
    assert sorted(found.mu) == sorted(PHI)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(tau=0), "tau=0.*at least 1"),
        (dict(alpha=1.0), r"alpha=1.0.*\[0, 1\)"),
        (dict(alpha=-0.1), r"alpha=-0.1"),
        (dict(clip=(10.0, 0.5)), r"clip=\(10.0, 0.5\).*low <= 1 <= high"),
        (dict(clip=(2.0, 3.0)), "anchor's own ratio is 1"),
        (dict(start_step=-1), "start_step=-1"),
        (dict(eps=-1.0), "eps=-1.0"),
        (dict(estimator="both"), "estimator='both'"),
        (dict(split="random"), "split='random'"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        agvm(**options)
    with pytest.raises(ValueError, match=message):
        modulate(optax.sgd(0.1), **options)


def test_an_anchor_that_is_no_module_is_refused_with_the_modules():
    with pytest.raises(ValueError, match="'neck'.*'backbone', 'fpn', 'head'"):
        agvm(anchor="neck").init(PARAMS)


def test_no_axis_and_no_phi_is_refused():
    tx = agvm()
    with pytest.raises(ValueError, match="no axis and got no phi"):
        tx.update(GRADS, tx.init(PARAMS), PARAMS)


def test_an_axis_that_is_not_there_is_refused():
    tx = agvm("data")
    with pytest.raises(ValueError, match="no axis 'data' here"):
        tx.update(GRADS, tx.init(PARAMS), PARAMS)


@pytest.mark.parametrize("phi", [{"backbone": 1.0}, {**PHI, "neck": 1.0}])
def test_a_phi_for_other_modules_is_refused(phi):
    tx = agvm()
    with pytest.raises(ValueError, match="phi has modules.*the parameters have"):
        tx.update(GRADS, tx.init(PARAMS), PARAMS, phi=phi)


def test_params_and_updates_that_differ_are_refused():
    tx = agvm()
    state = tx.init(PARAMS)
    fewer = {m: GRADS[m] for m in ("backbone", "fpn")}
    with pytest.raises(ValueError, match="differ in structure, first at 'head'"):
        tx.update(fewer, state, PARAMS, phi=PHI)
    with pytest.raises(ValueError, match="state was made for"):
        tx.update(fewer, state, phi=PHI)


def test_preconditioning_by_adam_needs_adam_and_a_chain_of_ours():
    alone = agvm("data", precondition=True)
    with pytest.raises(ValueError, match="agvm_jax.chain"):
        alone.update(GRADS, alone.init(PARAMS), PARAMS, phi=PHI)

    def update(inner, grads):
        tx = modulate(inner, "data", precondition=True)
        return tx.update(grads, tx.init(PARAMS), PARAMS)

    stacked = jax.tree.map(lambda g: jnp.stack([g, 2 * g]), GRADS)
    for inner, message in (
        (optax.sgd(0.1), "no second moment 'nu'"),
        (optax.chain(optax.adam(0.1), optax.adam(0.1)), "several second moments"),
    ):
        with pytest.raises(ValueError, match=message):
            jax.vmap(functools.partial(update, inner), axis_name="data")(stacked)
