"""What is measured wrongly, or not at all, never poisons mu."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modulator_cases import GRADS, NAN, PARAMS, PHI, run

from agvm_jax.optim import agvm


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
