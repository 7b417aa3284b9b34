"""mu against equations 4 and 5 and the algorithms around it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from modulator_cases import GRADS, PARAMS, PHI, run, some_phis

from agvm_jax.optim import agvm, modulate, phi_of_groups
from agvm_jax.optim.options import AgvmOptions
from agvm_jax.optim.variance import variance_ratios

# agvm is used alone here, which it warns of.
pytestmark = pytest.mark.filterwarnings("ignore:agvm scales gradients")


def numpy_mu(phis, tau=1, alpha=0.97, start=0, clip=(0.5, 10.0), eps=1e-6):
    mu = dict.fromkeys(PHI, 1.0)
    for t, phi in enumerate(phis):
        if t >= start and t % tau == 0:
            for m in mu:
                ratio = np.clip((phi["backbone"] + eps) / (phi[m] + eps), *clip)
                mu[m] = alpha * mu[m] + (1 - alpha) * np.sqrt(ratio)
    return mu


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


def test_a_growing_average_is_the_mean_of_four_ones_and_what_was_measured():
    phis = some_phis(6)
    roots = [np.sqrt(np.clip(p["backbone"] / p["head"], 0.5, 10)) for p in phis]
    state = run(agvm(tau=1, average="growing"), phis)
    np.testing.assert_allclose(state.mu["head"], (4 + sum(roots)) / 10, rtol=1e-5)
    assert state.measured["head"] == 6
    # Its memory ends at that of alpha: 4 / 5 here, from the first measurement on.
    short = run(agvm(tau=1, alpha=0.8, average="growing"), phis)
    paper = run(agvm(tau=1, alpha=0.8), phis)
    np.testing.assert_allclose(short.mu["head"], paper.mu["head"], rtol=1e-6)


def test_a_growing_average_survives_where_a_jump_of_mu_destroys():
    """What a bias correction did to a detector, in its smallest form.

    A head on a parabola, at a rate at which 2 / mu is the limit. Far from its optimum
    its gradient is clean, phi small and the ratio above 2: taken at once, the head
    diverges, so its gradient stays clean, and mu stays there for good. Averaged
    gently, it arrives while mu is still small, and then phi says 1.
    """
    noise, rate = 0.05, 1.0

    def distance(average, alpha):
        tx = agvm(tau=1, alpha=alpha, average=average)
        state, head = tx.init(PARAMS), jnp.float32(1.0)
        update = jax.jit(tx.update)
        for _ in range(30):
            signal = head**2
            phi = {**PHI, "head": 2 * noise / (signal + noise)}
            _, state = update(GRADS, state, PARAMS, phi=phi)
            head = head - rate * state.mu["head"] * head
        return float(jnp.abs(head)), float(state.mu["head"])

    assert distance("paper", 0.0)[0] > 1e3  # the first measurement counts in full
    assert distance("growing", 0.97)[0] < 1e-6
    assert distance("growing", 0.97)[1] < 1.2


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


def test_the_ratio_is_clipped_before_the_root():
    phi = {"backbone": jnp.float32(1), "fpn": jnp.float32(1e-4), "head": jnp.float32(2)}
    ratios = variance_ratios(phi, "backbone", (0.81, 4.0))
    np.testing.assert_allclose([ratios["fpn"], ratios["head"]], [2.0, 0.9], rtol=1e-6)


@pytest.mark.parametrize(
    ("tau", "estimator"), [(1, "halves"), (3, "halves"), (3, "norms")]
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


def test_host_and_device_agree_on_which_steps_measure():
    """t >= start_step and t % tau == 0, also where tau does not divide start_step."""
    options = AgvmOptions(tau=10, start_step=15)
    steps = np.arange(41)
    on_host = [bool(options.due(int(step))) for step in steps]
    assert [int(step) for step in steps[on_host]] == [20, 30, 40]
    np.testing.assert_array_equal(jax.jit(options.due)(steps), on_host)
