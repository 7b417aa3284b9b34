"""The scale stands before what has the last word; averagers are refused inside."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agvm_jax.optim import agvm, chain, modulate

PARAMS = {"backbone": jnp.ones(3), "head": jnp.full((2, 2), 0.5)}
PHI = {"backbone": 0.8, "head": 0.2}
RNG = np.random.default_rng(0)
GRADS = jax.tree.map(lambda p: jnp.asarray(RNG.normal(size=p.shape), p.dtype), PARAMS)
ADAMW = optax.adamw(1e-2, weight_decay=0.1)
KEEP = optax.keep_params_nonnegative()
SGD = optax.sgd(1.0)


def test_no_parameter_passes_zero():
    """The scale stands before the projection: behind it, the head became negative."""
    grads = jax.tree.map(lambda p: 0.8 * p, PARAMS)
    for tx in (
        chain(agvm(alpha=0.0), SGD, KEEP),
        chain(modulate(SGD, alpha=0.0), KEEP),
    ):
        updates, _ = tx.update(grads, tx.init(PARAMS), PARAMS, phi=PHI)
        new = optax.apply_updates(PARAMS, updates)
        np.testing.assert_allclose(new["backbone"], 0.2, rtol=1e-6)
        assert not new["head"].any()


def test_what_is_seen_last_is_what_is_applied():
    seen = optax.snapshot("seen", lambda updates: updates)
    norms = optax.monitor({"norm": lambda updates: optax.tree.norm(updates)})
    tx = chain(agvm(alpha=0.0), SGD, seen, norms)
    updates, state = tx.update(GRADS, tx.init(PARAMS), PARAMS, phi=PHI)
    chex.assert_trees_all_equal(optax.tree.get(state, "seen"), updates)
    np.testing.assert_allclose(
        optax.tree.get(state, "norm"), optax.tree.norm(updates), rtol=1e-6
    )
    # In the middle it sees what passes there.
    tx = chain(agvm(alpha=0.0), seen, ADAMW)
    _, state = tx.update(GRADS, tx.init(PARAMS), PARAMS, phi=PHI)
    chex.assert_trees_all_equal(optax.tree.get(state, "seen"), GRADS)


@pytest.mark.parametrize(
    "tx",
    [
        chain(agvm(), optax.chain(SGD, KEEP)),
        chain(agvm(), optax.named_chain(("sgd", SGD), ("keep", KEEP))),
        chain(agvm(), SGD, optax.masked(KEEP, {"backbone": False, "head": True})),
        chain(
            agvm(), SGD, optax.partition({"all": KEEP}, dict.fromkeys(PARAMS, "all"))
        ),
        chain(agvm(), SGD, optax.with_extra_args_support(KEEP)),
        chain(agvm(), optax.MultiSteps(optax.chain(SGD, KEEP), 2)),
        chain(agvm(), SGD, KEEP, optax.scale(0.5)),
        chain(SGD, KEEP, agvm()),
        chain(SGD, KEEP, agvm(scale_gradients=True)),
    ],
    ids="chain named masked partition extra MultiSteps not_last before front".split(),
)
def test_a_projection_that_cannot_be_kept_last_is_refused(tx):
    with pytest.raises(
        ValueError, match=r"keep_params_nonnegative \(transform [012]\)"
    ):
        tx.init(PARAMS)


def test_optaxs_chain_keeps_a_projection_last():
    mask = {"backbone": False, "head": True}
    tx = optax.chain(modulate(SGD, alpha=0.0), optax.masked(KEEP, mask))
    grads = jax.tree.map(lambda p: 0.8 * p, PARAMS)
    updates, _ = tx.update(grads, tx.init(PARAMS), PARAMS, phi=PHI)
    assert not optax.apply_updates(PARAMS, updates)["head"].any()


def test_an_averager_is_found_wherever_it_hides():
    averager = optax.contrib.schedule_free(SGD, 1.0)
    for tx in (
        chain(agvm(), averager),
        chain(averager, agvm()),
        modulate(optax.chain(optax.clip(1.0), averager)),
        modulate(optax.inject_hyperparams(lambda rate: averager)(rate=0.1)),
        modulate(optax.masked(averager, dict.fromkeys(PARAMS, True))),
    ):
        with pytest.raises(ValueError, match=r"schedule_free\(modulate\(optimizer"):
            tx.init(PARAMS)
    # It gets scaled gradients here and says so.
    chain(agvm(scale_gradients=True), averager).init(PARAMS)
    # Inside of it is where agvm belongs; and a projection does no harm behind it.
    right = optax.contrib.schedule_free(modulate(SGD), 1.0)
    chain(optax.clip(1.0), right, KEEP).init(PARAMS)


def test_moments_of_a_replicas_own_gradients_are_refused():
    for before in (ADAMW, optax.trace(0.9), optax.chain(optax.clip(1.0), ADAMW)):
        with pytest.raises(
            ValueError, match="transform 0.*drift apart. Put agvm first"
        ):
            chain(before, agvm("data")).init(PARAMS)
        chain(before, agvm()).init(PARAMS)  # of mean gradients
    for before in (
        optax.clip_by_global_norm(1.0),
        optax.inject_hyperparams(optax.clip)(max_delta=1.0),  # a scalar is no moment
    ):
        chain(before, agvm("data"), ADAMW).init(PARAMS)


def test_phi_goes_to_agvm_alone():
    """A line search refuses arguments that it and its function do not know."""

    def update(updates, state, params=None, **extra_args):
        assert set(extra_args) == {"value"}
        return updates, state

    after = optax.GradientTransformationExtraArgs(optax.identity().init, update)
    tx = chain(after, agvm(), SGD, after)
    tx.update(GRADS, tx.init(PARAMS), PARAMS, phi=PHI, value=1.0)


def test_the_weights_of_the_cosine_come_from_what_follows():
    def weights(states):
        assert [type(s).__name__ for s in states[0]] == ["ScaleByAdamState"] + [
            type(s).__name__ for s in ADAMW.init(PARAMS)[1:]
        ]
        assert len(states) == 2
        return PARAMS

    tx = chain(
        optax.clip(1.0), agvm("data", precondition=weights), ADAMW, optax.scale(1)
    )
    jax.vmap(lambda g: tx.update(g, tx.init(PARAMS), PARAMS)[0], axis_name="data")(
        jax.tree.map(lambda g: jnp.stack([g, 2 * g]), GRADS)
    )


def test_lookahead_that_resets_its_optimizer_forgets_mu():
    """As docs/optimizers.md warns."""
    for reset in (False, True):
        tx = optax.lookahead(modulate(SGD, "data", tau=1), 2, 0.5, reset_state=reset)

        def mu_of_the_head(own, tx=tx):
            params = optax.LookaheadParams.init_synced(PARAMS)
            state, grads = tx.init(params), dict(GRADS)
            grads["backbone"] = grads["backbone"] + own
            for _ in range(2):
                _, state = tx.update(grads, state, params)
            return optax.tree.get(state, "AgvmState").mu["head"]

        mu = jax.vmap(mu_of_the_head, axis_name="data", out_axes=None)(
            jnp.array([0.5, -0.5])
        )
        assert (mu == 1.0) == reset
