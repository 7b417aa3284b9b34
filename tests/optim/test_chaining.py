"""chain and modulate say the same thing; plain optax.chain may say nothing at all."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agvm_jax.optim import agvm, chain, modulate

PARAMS = {"backbone": jnp.ones(3), "head": jnp.full((2, 2), 0.5)}
PHI = {"backbone": 0.8, "head": 0.2}
RNG = np.random.default_rng(0)
STEPS = [
    jax.tree.map(lambda p: jnp.asarray(RNG.normal(size=p.shape), jnp.float32), PARAMS)
    for _ in range(6)
]
ADAMW = optax.adamw(1e-2, weight_decay=0.1)
OPTIMIZERS = {
    "sgd": optax.chain(optax.add_decayed_weights(0.1), optax.sgd(1e-2, 0.9)),
    "adamw": ADAMW,
    "lamb": optax.lamb(1e-2),
    "lars": optax.lars(5.0),
}
each_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


# Says that a plain optax.chain is meant; without it agvm warns.
PLAIN = {"scale_gradients": True}


def trajectory(tx, phi=PHI, axis=None):
    """Return the parameters after each step."""

    def run(steps):
        params, state, seen = PARAMS, tx.init(PARAMS), []
        for grads in steps:
            extra = {} if axis else {"phi": phi}
            updates, state = optax.with_extra_args_support(tx).update(
                grads, state, params, **extra
            )
            params = optax.apply_updates(params, updates)
            seen.append(params)
        return seen

    if axis:
        return jax.jit(jax.vmap(run, axis_name=axis, out_axes=None))
    return jax.jit(run)(STEPS)


def assert_bitwise(first, second):
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def differ(first, second):
    return any(
        np.asarray(a).tobytes() != np.asarray(b).tobytes()
        for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    )


@each_optimizer
def test_chain_is_modulate_bit_for_bit(name):
    inner = OPTIMIZERS[name]
    options = dict(tau=2, alpha=0.5)
    assert_bitwise(
        trajectory(chain(agvm(**options), inner)),
        trajectory(modulate(inner, **options)),
    )


def test_chain_is_modulate_over_an_axis_too():
    stacked = [
        jax.tree.map(lambda g: jnp.stack([g, -g + 0.3, 2 * g, g * g]), step)
        for step in STEPS
    ]
    options = dict(axis_name="data", tau=2, alpha=0.5)
    first = trajectory(chain(agvm(**options), ADAMW), axis="data")(stacked)
    assert_bitwise(first, trajectory(modulate(ADAMW, **options), axis="data")(stacked))
    assert differ(first, trajectory(chain(agvm("data"), ADAMW), axis="data")(stacked))


def test_what_stands_before_and_after_agvm_is_kept():
    before, after = optax.clip_by_global_norm(0.5), optax.scale(0.5)
    whole = chain(before, agvm(tau=1, alpha=0.5), ADAMW, after)
    parts = optax.chain(before, modulate(optax.chain(ADAMW, after), tau=1, alpha=0.5))
    assert_bitwise(trajectory(whole), trajectory(parts))
    assert len(whole.init(PARAMS)) == 4


def test_the_modulation_is_applied_to_what_comes_out_last():
    tx = chain(agvm(tau=1, alpha=0.0, eps=0.0), ADAMW)
    first = ADAMW.update(STEPS[0], ADAMW.init(PARAMS), PARAMS)[0]
    updates = tx.update(STEPS[0], tx.init(PARAMS), PARAMS, phi=PHI)[0]
    np.testing.assert_allclose(updates["head"], 2 * first["head"], rtol=1e-6)
    assert_bitwise(updates["backbone"], first["backbone"])


def test_without_agvm_it_is_optaxs_chain():
    transforms = (optax.clip(0.1), ADAMW)
    assert_bitwise(trajectory(chain(*transforms)), trajectory(optax.chain(*transforms)))
    assert jax.tree.structure(chain(*transforms).init(PARAMS)) == jax.tree.structure(
        optax.chain(*transforms).init(PARAMS)
    )


def test_a_chain_of_ours_may_stand_in_another():
    options = dict(tau=1, alpha=0.5)
    nested = chain(optax.clip(0.5), chain(agvm(**options), ADAMW), optax.scale(1.0))
    flat = chain(optax.clip(0.5), agvm(**options), ADAMW)
    assert_bitwise(trajectory(nested), trajectory(flat))


def test_one_state_serves_both_chains():
    """A checkpoint made under the inert optax.chain continues under ours."""
    ours, theirs = chain(agvm(), ADAMW), optax.chain(agvm(**PLAIN), ADAMW)
    _, state = theirs.update(STEPS[0], theirs.init(PARAMS), PARAMS, phi=PHI)
    updates, _ = ours.update(STEPS[1], state, PARAMS, phi=PHI)
    assert jax.tree.structure(updates) == jax.tree.structure(PARAMS)


@pytest.mark.parametrize("name", ["adamw", "lamb", "lars"])
def test_agvm_before_an_adaptive_optimizer_in_optax_chain_is_inert(name):
    """The trap: it runs, averages and records phi and mu, and changes nothing."""
    inner = OPTIMIZERS[name]
    options = dict(tau=100, alpha=0.0)  # mu of the head is 2 from the first step on
    inert = trajectory(optax.chain(agvm(**options, **PLAIN), inner))
    without = trajectory(inner)
    faithful = trajectory(chain(agvm(**options), inner))
    for step in range(len(STEPS)):
        np.testing.assert_allclose(
            inert[step]["head"], without[step]["head"], rtol=2e-5, atol=1e-7
        )
    moved = np.abs(faithful[0]["head"] - PARAMS["head"])
    np.testing.assert_allclose(
        moved, 2 * np.abs(without[0]["head"] - PARAMS["head"]), rtol=1e-3
    )


def test_agvm_before_sgd_in_optax_chain_scales_what_enters_the_momentum():
    """Faithful while mu stands still; then the momentum holds gradients of older mu."""
    inner = optax.sgd(0.1, 0.9)
    still = dict(tau=100, alpha=0.0)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        trajectory(optax.chain(agvm(**still, **PLAIN), inner)),
        trajectory(chain(agvm(**still), inner)),
    )


def test_an_agvm_that_chain_cannot_reach_is_refused():
    hidden = optax.masked(agvm(), {"backbone": True, "head": True})
    with pytest.raises(ValueError, match="inside transform 0.*wrapper"):
        chain(hidden, ADAMW).init(PARAMS)
    chain(ADAMW, hidden).init(PARAMS)  # last, where nothing can divide it out


@pytest.mark.parametrize(
    "hidden",
    [
        optax.chain(optax.clip(1.0), agvm()),
        optax.named_chain(("clip", optax.clip(1.0)), ("agvm", agvm())),
        optax.inject_hyperparams(agvm)(alpha=0.5),
    ],
    ids=["chain", "named_chain", "inject_hyperparams"],
)
def test_an_agvm_one_level_down_is_refused_where_it_would_be_inert(hidden):
    with pytest.raises(ValueError, match="inside transform 1.*could divide"):
        chain(optax.clip(1.0), hidden, ADAMW).init(PARAMS)
    with pytest.raises(ValueError, match="another one inside transform 1.*twice"):
        chain(agvm(), hidden).init(PARAMS)


def test_a_chain_of_ours_with_an_agvm_alone_is_not_inert():
    options = dict(tau=1, alpha=0.5)
    assert_bitwise(
        trajectory(chain(chain(agvm(**options)), ADAMW)),
        trajectory(modulate(ADAMW, **options)),
    )


def test_modulating_twice_is_refused():
    with pytest.raises(ValueError, match=r"agvm 2 times, at places \[0, 1\]"):
        modulate(modulate(ADAMW))


def test_agvm_in_a_plain_optax_chain_warns_and_names_the_remedy():
    tx = optax.chain(agvm(), ADAMW)
    with pytest.warns(UserWarning, match="agvm_jax.chain.*scale_gradients=True"):
        jax.jit(tx.update)(STEPS[0], tx.init(PARAMS), PARAMS, phi=PHI)


def test_an_agvm_that_ends_a_chain_of_ours_warns_too():
    """In a plain optax.chain it would be as inert as agvm alone."""
    tx = optax.chain(chain(optax.clip(1.0), agvm()), ADAMW)
    with pytest.warns(UserWarning, match="or agvm comes last, say"):
        jax.jit(tx.update)(STEPS[0], tx.init(PARAMS), PARAMS, phi=PHI)


def test_scale_gradients_keeps_the_scale_where_agvm_stands():
    options = dict(tau=1, alpha=0.5, **PLAIN)
    sgd = optax.sgd(0.1, momentum=0.9)
    assert_bitwise(
        trajectory(chain(agvm(**options), sgd)),
        trajectory(optax.chain(agvm(**options), sgd)),
    )
    assert differ(
        trajectory(chain(agvm(**options), sgd)),
        trajectory(chain(agvm(tau=1, alpha=0.5), sgd)),
    )


@pytest.mark.parametrize("make", [agvm, lambda: modulate(ADAMW)])
def test_transforms_can_be_copied_and_replaced(make):
    original = make()
    rename = dict(init=original.init)
    for tx in (copy.deepcopy(original), original._replace(**rename)):
        assert_bitwise(trajectory(chain(tx, ADAMW)), trajectory(chain(make(), ADAMW)))


def test_two_agvm_and_an_empty_chain_are_refused():
    with pytest.raises(ValueError, match=r"agvm 2 times, at places \[0, 2\]"):
        chain(agvm(), ADAMW, agvm())
    with pytest.raises(ValueError, match="at least one transform"):
        chain()


def test_the_state_of_another_chain_is_refused():
    tx = chain(agvm(), ADAMW)
    with pytest.raises(ValueError, match="2 transforms got a state of 1"):
        tx.update(STEPS[0], tx.init(PARAMS)[:1], PARAMS, phi=PHI)


def test_counters_among_the_parameters_are_not_scaled():
    """SGD makes a float of a counter's update; what it belongs to does not change."""
    params = {
        "backbone": jnp.ones(2),
        "head": {"w": jnp.ones(2), "seen": jnp.array(3)},
        "steps": jnp.array(0),
    }
    grads = jax.tree.map(jnp.ones_like, params)
    phi = {"backbone": 0.8, "head": 0.2}
    for tx in (
        chain(agvm(alpha=0.0), optax.sgd(0.1)),
        chain(optax.sgd(0.1), agvm(**PLAIN, alpha=0.0)),
    ):
        updates, _ = tx.update(grads, tx.init(params), params, phi=phi)
        np.testing.assert_allclose(updates["head"]["w"], -0.2, rtol=1e-5)
        np.testing.assert_allclose(updates["head"]["seen"], -0.1, rtol=1e-5)
        np.testing.assert_allclose(updates["steps"], -0.1, rtol=1e-5)


def test_measuring_at_every_step_still_waits_for_the_first_step():
    tx = chain(agvm(tau=1, start_step=2, alpha=0.0), ADAMW)
    state = tx.init(PARAMS)
    for grads, mu in zip(STEPS[:3], (1.0, 1.0, 2.0), strict=True):
        _, state = tx.update(grads, state, PARAMS, phi=PHI)
        np.testing.assert_allclose(state[0].mu["head"], mu, rtol=1e-5)
