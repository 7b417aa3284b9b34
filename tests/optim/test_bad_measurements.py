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
from agvm_jax.optim.modulation import Modulator
from agvm_jax.optim.options import AgvmOptions

# agvm is used alone here, which it warns of.
pytestmark = pytest.mark.filterwarnings("ignore:agvm scales gradients")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    values=st.lists(
        st.fixed_dictionaries({m: st.floats(width=32) for m in PHI}),
        min_size=1,
        max_size=8,
    ),
    average=st.sampled_from(["paper", "growing"]),
    alpha=st.one_of(st.floats(-1.0, 2.0, width=32), st.just(np.nan)),
    tau=st.floats(-2.0, 3.5, width=32),
    low=st.one_of(st.just(0.0), st.floats(2**-20, 1.0, width=32)),
    high=st.floats(1.0, 1e6, width=32),
    eps=st.floats(0.0, 1.0, width=32),
)
def test_mu_stays_finite_and_within_its_bounds_whatever_is_measured(
    values, average, alpha, tau, low, high, eps
):
    """alpha and tau as a schedule may give them: out of range as well."""
    state = agvm().init(PARAMS)
    for phi in values:
        phi = {m: jnp.float32(p) for m, p in phi.items()}
        state = one_update(average, (alpha, tau, low, high, eps), state, phi)
        for m, mu in state.mu.items():
            assert np.sqrt(low) * 0.999 <= mu <= np.sqrt(high) * 1.001, m
        assert state.mu["backbone"] == 1.0


@functools.partial(jax.jit, static_argnums=0)
def one_update(average, options, state, phi):
    alpha, tau, low, high, eps = options
    equations = AgvmOptions(
        average=average, alpha=lambda _: alpha, tau=lambda _: tau, eps=eps
    )
    object.__setattr__(equations, "clip", (low, high))  # traced: cannot be checked
    modulator = Modulator(equations, None, None, None, True)
    return modulator.update(GRADS, state, phi=phi)[1]


@pytest.mark.parametrize("average", ["paper", "growing"])
def test_a_schedule_of_alpha_that_gives_nan_leaves_mu_as_it_was(average):
    tx = agvm(
        tau=1, average=average, alpha=lambda step: jnp.where(step < 2, 0.5, np.nan)
    )
    before, after = run(tx, [PHI] * 2), run(tx, [PHI] * 4)
    assert before.mu["head"] != 1.0
    chex.assert_trees_all_equal(after.mu, before.mu)
    chex.assert_trees_all_equal(after.measured, before.measured)


def test_what_is_passed_between_two_measurements_is_not_taken_for_one():
    other = {m: value / 2 for m, value in PHI.items()}
    tx = agvm(tau=2, alpha=0.5, average="growing")
    before, after = run(tx, [PHI]), run(tx, [PHI, other])
    assert before.measured == dict.fromkeys(PHI, 1.0)
    chex.assert_trees_all_equal(before._replace(count=after.count), after)


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


@pytest.mark.parametrize("estimator", ["halves", "norms"])
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
