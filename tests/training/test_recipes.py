"""From a config to an optimizer: what is built, what is said, what is refused."""

from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agvm_jax.optim import baselines
from agvm_jax.optim.modulation import AgvmState
from agvm_jax.optim.modules import label_tree
from agvm_jax.training import recipes
from agvm_jax.training.modulation_settings import modules_of
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
    assert recipe.agvm is None
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


def test_a_rival_says_how_to_run_it_alone():
    assert "agvm.enabled=False runs it alone" in build(name="lamb").reasons[-1]
    assert "alone" not in build(name="adamw").reasons[-1]


def test_pmd_lamb_is_called_a_reconstruction():
    assert any("reconstruction" in r for r in build(name="pmd_lamb").reasons)


@pytest.mark.parametrize(
    ("given", "warmup", "window"),
    [
        ((0, -1), None, (0, -1)),
        ((1, 2), None, (1, 2)),
        ((2, -1), None, (2, -1)),
        ((-1, 1), 2, (1, 3)),
        ((-5, 0), 2, (0, 2)),
        ((-1, -1), 3, (2, -1)),  # -1 as the last is the end also here
    ],
)
def test_gradients_are_clipped_inside_the_window_only(given, warmup, window):
    recipe = build(
        PLAIN, name="sgd", lr=0.25, momentum=0.0, clip_norm=0.5, clip_window=given,
        lr_rule="none", warmup_steps=warmup or 0, warmup_ratio=1.0, weight_decay=0.0,
        schedule="constant", clip_around_warmup=warmup is not None,
    )  # fmt: skip
    state = recipe.tx.init(params())
    for step in range(4):
        updates, state = recipe.tx.update(grads(step), state, params())
        inside = window[0] <= step and (step <= window[1] or window[1] == -1)
        full = float(optax.tree.norm(grads(step)))
        expected = 0.25 * (0.5 if inside else full)  # the gradient, not the step
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


@pytest.mark.parametrize(
    "agvm_changes, changes, words",
    [
        ({}, dict(name="adam"), "'adam'; choose one of sgd"),
        ({}, dict(name="sam", sam_inner="lamb"), "'lamb'; choose one of sgd, adamw"),
        ({}, dict(clip_norm=-1.0), "clip_norm is -1.0"),
        ({}, dict(clip_norm=1.0, clip_window=(5, 3)), r"\(5, 3\)"),
        (dict(precondition=True), dict(name="sgd"), "keeps no second moment"),
        ({}, dict(clip_norm=1.0, clip_window=(-5, 3)), "clip_around_warmup=True"),
        (dict(start_step=-2), {}, "start_step is -2"),
        (dict(start_delay=-1), {}, "start_delay is -1"),
        (dict(start_step=7, start_delay=5), {}, "start_step 7.*set it to 0"),
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


@pytest.mark.parametrize("name", ["lars", "lamb", "pmd_lamb", "adamw"])
def test_the_layers_of_a_stack_move_as_if_they_were_not_stacked(name):
    def layered(tree):
        return {**jax.tree.map(lambda _: False, tree), "backbone": {"kernel": True}}

    stacked, plain = (
        recipes.build_optimizer(*sections(PLAIN, name=name), **SIZES, layered=layers)
        for layers in (layered, None)
    )
    tx = stacked.tx
    moved, _ = tx.update(grads(5), tx.init(params()), params())
    rows = [
        {"backbone": tree["backbone"]["kernel"][row], "head": tree["head"]}
        for tree in (params(), grads(5))
        for row in range(3)
    ]
    for row, (weights, slopes) in enumerate(zip(rows[:3], rows[3:], strict=True)):
        own, _ = plain.tx.update(slopes, plain.tx.init(weights), weights)
        np.testing.assert_allclose(
            moved["backbone"]["kernel"][row], own["backbone"], rtol=1e-5
        )
        chex.assert_trees_all_close(moved["head"], own["head"], rtol=1e-5)


def test_patterns_of_the_config_name_the_modules():
    config = base.get_config().agvm
    assert modules_of(config) is None
    config.modules = ((r"^box_head/stages/(\d)", r"box_head_\1"),)
    leaf = {"kernel": jnp.ones(2)}
    tree = {"backbone": leaf, "box_head": {"stages": {"0": leaf, "1": leaf}}}
    labels = label_tree(tree, modules_of(config))
    assert labels == {
        "backbone": {"kernel": "backbone"},
        "box_head": {
            "stages": {"0": {"kernel": "box_head_0"}, "1": {"kernel": "box_head_1"}}
        },
    }
    recipe = build(agvm_changes={"modules": config.modules})
    state = recipe.tx.init(tree)
    names = {"backbone", "box_head_0", "box_head_1"}
    assert names in [set(part.mu) for part in state if isinstance(part, AgvmState)]


@pytest.mark.parametrize("pair", ["box_head", ("(", "box_head"), ("a", "b", "c")])
def test_what_names_no_module_is_refused(pair):
    with pytest.raises(ValueError, match="no pair"):
        build(agvm_changes={"modules": (pair,)})
