"""From a config to an optimizer: what is built, what is said, what is refused."""

import dataclasses
import inspect
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agvm_jax.optim import baselines
from agvm_jax.optim.chaining import agvm, modulate
from agvm_jax.optim.options import AgvmOptions
from agvm_jax.training import recipes
from configs import base

SIZES = dict(batch_size=256, total_steps=1000, steps_per_epoch=100)


def sections(agvm_changes=None, **changes):
    config = base.get_config()
    config.optim.update(changes)
    config.agvm.update(agvm_changes or {})
    return config.optim, config.agvm


def build(agvm_changes=None, sizes=SIZES, **changes):
    return recipes.build_optimizer(*sections(agvm_changes, **changes), **sizes)


PLAIN = dict(enabled=False)


def params():
    return {
        "backbone": {"kernel": jnp.linspace(-1.0, 1.0, 6).reshape(3, 2)},
        "head": {"kernel": jnp.ones((2, 2)), "bias": jnp.full(2, 0.5)},
    }


def grads(step):
    return jax.tree.map(
        lambda x: jnp.cos(jnp.arange(x.size, dtype=x.dtype) + step).reshape(x.shape),
        params(),
    )


def path_of(tx, steps=4, **extra):
    tx = optax.with_extra_args_support(tx)
    weights, path = params(), []
    state = tx.init(weights)
    for step in range(steps):
        updates, state = tx.update(grads(step), state, weights, **extra)
        weights = optax.apply_updates(weights, updates)
        path.append(weights)
    return path


EXPECTED = {
    "sgd": lambda rate: baselines.sgd(rate, 0.8, 0.01),
    "megdet": lambda rate: baselines.sgd(rate, 0.8, 0.01),
    "sam": lambda rate: baselines.sgd(rate, 0.8, 0.01),
    "adamw": lambda rate: optax.adamw(rate, 0.7, 0.95, 1e-5, weight_decay=0.01),
    "lars": lambda rate: baselines.lars(rate, 0.8, 0.01, 0.02),
    "lamb": lambda rate: baselines.lamb(rate, 0.7, 0.95, 1e-5, 0.01),
    "pmd_lamb": lambda rate: baselines.pmd_lamb(rate, 0.7, 0.95, 1e-5, 0.01, 2, 0.3),
}


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_what_no_decay_names_does_not_decay(name):
    def moved(**changes):
        recipe = build(
            PLAIN, name=name, lr=0.1, lr_rule="none", warmup_steps=0, **changes
        )
        tx, weights = recipe.tx, params()
        nothing = jax.tree.map(jnp.zeros_like, weights)
        updates, _ = tx.update(nothing, tx.init(weights), weights)
        return jax.tree.map(lambda leaf: bool(leaf.any()), updates)

    everything = jax.tree.map(lambda leaf: True, params())
    assert moved(weight_decay=0.1) == everything
    spared = moved(weight_decay=0.1, no_decay=("bias", "backbone"))
    assert spared == {
        "backbone": {"kernel": False},
        "head": {"kernel": True, "bias": False},
    }


def test_a_word_that_spares_nothing_is_refused():
    recipe = build(PLAIN, name="adamw", no_decay=("gamma",))
    with pytest.raises(ValueError, match="no parameter has 'gamma'"):
        recipe.tx.init(params())
    with pytest.raises(ValueError, match="lamb has a rule of its own"):
        build(PLAIN, name="lamb", no_decay=("bias",))


@pytest.mark.parametrize("name", EXPECTED)
def test_every_name_builds_its_optimizer_from_every_key(name):
    recipe = build(
        PLAIN,
        name=name,
        lr=0.1,
        momentum=0.8,
        weight_decay=0.01,
        b1=0.7,
        b2=0.95,
        eps=1e-5,
        trust_coefficient=0.02,
        pmd_period=2,
        pmd_decay=0.3,
        warmup_steps=2,
    )
    assert not recipe.measures
    expected = path_of(EXPECTED[name](recipe.schedule))
    chex.assert_trees_all_close(path_of(recipe.tx), expected, rtol=1e-6)


def test_every_builder_is_tested():
    assert set(EXPECTED) == set(recipes.BUILDERS)


def test_sam_carries_what_the_step_needs_and_may_step_by_adamw():
    recipe = build(PLAIN, name="sam", sam_inner="adamw", sam_rho=0.2, sam_synced=True)
    assert recipe.sam == recipes.Perturbation(rho=0.2, synced=True)
    expected = path_of(build(PLAIN, name="adamw").tx)
    chex.assert_trees_all_close(path_of(recipe.tx), expected)


def test_megdet_asks_for_synced_norms_and_warms_up_linearly():
    recipe = build(PLAIN, name="megdet", warmup="exponential")
    linear = build(PLAIN, name="megdet", warmup="linear")
    assert recipe.required_norm == "synced"
    assert float(recipe.schedule(30)) == float(linear.schedule(30))
    assert any("optim.warmup=exponential is unused" in r for r in recipe.reasons)
    assert build(PLAIN, name="sgd").required_norm is None


def test_a_rate_of_zero_means_the_optimizers_usual_one():
    recipe = build(PLAIN, name="sgd", lr=0.0)
    # 0.01 per 16: linear to 128, square root to 256.
    assert float(recipe.schedule(500)) == pytest.approx(0.01 * 8 * np.sqrt(2))
    assert "0.01 per 16" in recipe.reasons[0]


def test_agvm_scales_the_whole_update_by_mu():
    always = dict(tau=1, alpha=0.0, start_step=0)
    phi = {"backbone": 0.8, "head": 0.2}
    for name in recipes.BUILDERS:
        plain = build(PLAIN, name=name, lr=0.1).tx
        modulated = build(always, name=name, lr=0.1).tx
        a, _ = plain.update(grads(0), plain.init(params()), params())
        b, _ = modulated.update(grads(0), modulated.init(params()), params(), phi=phi)
        chex.assert_trees_all_close(b["backbone"], a["backbone"], rtol=1e-4)
        doubled = jax.tree.map(lambda u: 2 * u, a["head"])
        chex.assert_trees_all_close(b["head"], doubled, rtol=1e-4)


def test_agvm_off_measures_nothing():
    recipe = build(PLAIN)
    assert recipe.agvm is None
    assert recipe.weights(recipe.tx.init(params())) is None


@pytest.mark.parametrize("batch, tau", [(256, 10), (1024, 10), (1025, 5), (10240, 5)])
def test_tau_follows_the_batch(batch, tau):
    recipe = build(sizes={**SIZES, "batch_size": batch})
    assert recipe.agvm.tau == tau


def test_numbers_that_are_given_stay():
    recipe = build(dict(tau=3, start_step=7, alpha=0.5, anchor="head"))
    resolved = recipe.agvm
    assert (resolved.tau, resolved.start_step, resolved.alpha) == (3, 7, 0.5)
    assert resolved.anchor == "head"


def test_agvm_starts_where_the_warmup_ends_and_says_so():
    recipe = build(warmup_epochs=2.0)
    assert recipe.agvm.start_step == recipe.warmup_steps == 200
    assert "from step 200 (end of warm-up)" in recipe.reasons[-1]
    late = build(sizes={**SIZES, "total_steps": 50})
    assert "never in this run of 50" in late.reasons[-1]


def test_a_rival_says_how_to_run_it_alone():
    assert "agvm.enabled=False runs it alone" in build(name="lamb").reasons[-1]
    assert "alone" not in build(name="adamw").reasons[-1]


def test_pmd_lamb_is_called_a_reconstruction():
    assert any("reconstruction" in r for r in build(name="pmd_lamb").reasons)


@pytest.mark.parametrize("window", [(0, -1), (1, 2), (2, -1)])
def test_gradients_are_clipped_inside_the_window_only(window):
    recipe = build(
        PLAIN, name="sgd", lr=1.0, momentum=0.0, clip_norm=0.5, clip_window=window,
        lr_rule="none", warmup_steps=0, weight_decay=0.0, schedule="constant",
    )  # fmt: skip
    state = recipe.tx.init(params())
    for step in range(4):
        updates, state = recipe.tx.update(grads(step), state, params())
        inside = window[0] <= step and (step <= window[1] or window[1] == -1)
        full = float(optax.tree.norm(grads(step)))
        expected = 0.5 if inside else full
        assert float(optax.tree.norm(updates)) == pytest.approx(expected, rel=1e-5)
        assert full > 0.5


def test_precondition_hands_out_adams_weights():
    recipe = build(dict(precondition=True), name="adamw", eps=1e-3)
    state = recipe.tx.init(params())
    phi = {"backbone": 0.8, "head": 0.2}
    _, state = recipe.tx.update(grads(0), state, params(), phi=phi)
    nu = optax.tree.get(state, "nu")
    chex.assert_trees_all_close(
        recipe.weights(state),
        jax.tree.map(lambda v: 1 / (jnp.sqrt(v) + 1e-3), nu),
        rtol=1e-6,
    )
    assert build(name="adamw").weights(state) is None


def test_the_config_the_options_and_the_keywords_are_the_same():
    """One name in three places: configs/base.py, AgvmOptions, agvm() and modulate()."""
    fields = {field.name: field.default for field in dataclasses.fields(AgvmOptions)}
    where = {"axis_name", "modules", "shard_axes"}
    for function, more in ((agvm, {"scale_gradients"}), (modulate, {"inner"})):
        keywords = inspect.signature(function).parameters
        assert set(keywords) - where - more == set(fields)
        for name, default in fields.items():
            assert keywords[name].default == default, name
    config = base.get_config()
    # The optimizer's own eps, config.optim.eps, is that of the preconditioned cosine.
    assert set(config.agvm) - {"enabled"} == set(fields) - {"precondition_eps"}
    derived = {"tau": 0, "start_step": -1}  # "by itself"
    for name in set(config.agvm) - {"enabled"}:
        assert config.agvm[name] == derived.get(name, fields[name]), name


def test_every_option_of_the_config_arrives():
    changes = dict(
        anchor="head", estimator="norms", split="contiguous", tau=3, alpha=0.5,
        start_step=7, clip=(0.25, 4.0), eps=1e-3, average="growing", precondition=True,
    )  # fmt: skip
    assert set(changes) == set(base.get_config().agvm) - {"enabled"}
    resolved = build(changes, name="adamw", eps=1e-5).agvm
    for name, value in changes.items():
        assert getattr(resolved, name) == value
    assert resolved.precondition_eps == 1e-5


@pytest.mark.parametrize(
    "agvm_changes, changes, words",
    [
        ({}, dict(name="adam"), "'adam'; choose one of sgd"),
        ({}, dict(name="sam", sam_inner="lamb"), "'lamb'; choose one of sgd, adamw"),
        ({}, dict(clip_norm=-1.0), "clip_norm is -1.0"),
        ({}, dict(clip_norm=1.0, clip_window=(5, 3)), r"\(5, 3\)"),
        (dict(precondition=True), dict(name="sgd"), "keeps no second moment"),
        (dict(start_step=-2), {}, "start_step is -2"),
        (dict(tau=-5), {}, "tau is -5"),
        (dict(alpha=1.0), {}, "alpha"),
        (dict(clip=(2.0, 0.5)), {}, "clip"),
        (dict(estimator="thirds"), {}, "thirds"),
        (dict(estimator="replicas"), {}, "called 'norms' now"),
        (dict(average="mean"), {}, "average='mean'"),
    ],
)
def test_bad_values_are_named_with_their_remedy(agvm_changes, changes, words):
    with pytest.raises(ValueError, match=words):
        build(agvm_changes, **changes)


def test_a_config_may_be_any_object_with_the_keys():
    optim, settings = sections()
    plain = SimpleNamespace(**optim.to_dict()), SimpleNamespace(**settings.to_dict())
    assert recipes.build_optimizer(*plain, **SIZES).reasons == build().reasons
