"""Where the evaluated parameters end up, with AGVM around or inside each of Optax."""

import inspect
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax_cases as cases
import pytest
from optax import contrib
from optax_cases import FIXED, PARAMS, PHI, RATE, doubled, modulated
from optax_runs import loss, run, value_and_grad

from agvm_jax.optim import agvm, chain, modulate

PAGE = Path(__file__).resolve().parents[2] / "docs" / "optimizers.md"
# Two replicas, the head's gradients the same on both: the variance ratio is clipped.
ON_REPLICAS = dict(axis_name="data", alpha=0.0, tau=10**6, clip=(0.5, 4.0))


# With a loop or a condition in them, which would be compiled anew at every call. That
# conditionally_mask may also be called outside of jit is seen here.
LOOPS = set(
    "MultiSteps apply_if_finite conditionally_transform scale_by_lbfgs "
    "contrib.galore contrib.hutchinson_estimator_diag_hessian contrib.mechanize "
    "contrib.muon contrib.reduce_on_plateau contrib.scale_by_galore "
    "contrib.scale_by_muon contrib.sophia".split()
)


def on_replicas(tx, **kwargs):
    return jax.vmap(
        lambda own: run(tx, own, **kwargs), axis_name="data", out_axes=None
    )(jnp.array([0.5, -0.5]))


def assert_close(first, second):
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def assert_anchor_as_without(steps, without, count=None):
    """Bit for bit."""
    for step, plain in list(zip(steps, without, strict=True))[:count]:
        anchors = step["backbone"]["kernel"], plain["backbone"]["kernel"]
        assert np.asarray(anchors[0]).tobytes() == np.asarray(anchors[1]).tobytes()


def head_moved(steps, others):
    return not np.array_equal(steps[-1]["head"]["kernel"], others[-1]["head"]["kernel"])


@pytest.mark.parametrize("name", [*cases.MODULES_APART, *cases.PARTS])
def test_the_head_is_scaled_and_the_anchor_as_without_agvm(name):
    tx = {**cases.MODULES_APART, **cases.PARTS}[name]
    if name in cases.PARTS:
        tx = optax.chain(tx, optax.scale(-RATE))
    more = dict(compiled=name in LOOPS, steps=2)
    if "sophia" in name or "hessian" in name:
        more["obj_fn"] = loss
    steps = run(modulated(tx), phi=PHI, **more)
    assert_close(steps, run(doubled(tx), **more))
    without = run(tx, **more)
    assert_anchor_as_without(steps, without)
    assert head_moved(steps, without) or name == "set_to_zero"


@pytest.mark.parametrize("name", cases.ONE_RATE_FOR_ALL)
def test_with_one_rate_for_all_the_anchor_feels_the_head_later(name):
    tx = cases.ONE_RATE_FOR_ALL[name]
    compiled = name in LOOPS
    steps = run(modulated(tx), compiled=compiled, phi=PHI)
    assert_close(steps, run(doubled(tx), compiled=compiled))
    without = run(tx, compiled=compiled)
    assert_anchor_as_without(steps, without, count=1)
    assert head_moved(steps, without)


@pytest.mark.parametrize("name", cases.IN_FRONT)
def test_what_measures_the_way_gets_scaled_gradients(name):
    tx = cases.IN_FRONT[name]
    steps = run(chain(agvm(**FIXED, scale_gradients=True), tx), phi=PHI)
    assert_close(steps, run(optax.chain(doubled(optax.identity()), tx)))
    assert head_moved(steps, run(tx))


@pytest.mark.parametrize("name", ["contrib.mechanize", "contrib.schedule_free"])
def test_what_keeps_iterates_goes_around(name):
    wrapper, sgd = cases.AROUND[name], optax.sgd(RATE)
    compiled = name in LOOPS
    steps = run(wrapper(modulated(sgd)), compiled=compiled, phi=PHI)
    assert_close(steps, run(wrapper(doubled(sgd)), compiled=compiled))
    without = run(wrapper(sgd), compiled=compiled)
    # Mechanic's rate is one for all.
    count = 1 if "mechanize" in name else None
    assert_anchor_as_without(steps, without, count)
    assert head_moved(steps, without)


@pytest.mark.parametrize("name", cases.SCHEDULE_FREE)
def test_schedule_free_optimizers_are_taken_apart(name):
    base = optax.adam(RATE, b1=0.0) if "adamw" in name else optax.sgd(RATE)
    steps = run(contrib.schedule_free(modulated(base), RATE), phi=PHI)
    whole = run(cases.SCHEDULE_FREE[name])
    assert_close([s["backbone"] for s in steps], [s["backbone"] for s in whole])
    assert head_moved(steps, whole)


@pytest.mark.parametrize("name", cases.BEHIND_THE_SCALE)
def test_the_scale_stands_before_what_has_the_last_word(name):
    tx, sgd = cases.BEHIND_THE_SCALE[name], optax.sgd(0.5)
    steps = run(chain(agvm(**FIXED), sgd, tx), phi=PHI)
    assert_close(steps, run(optax.chain(doubled(sgd), tx)))
    if name == "keep_params_nonnegative":
        assert head_moved(steps, run(doubled(optax.chain(sgd, tx))))


@pytest.mark.parametrize("name", cases.SEARCHES)
def test_a_line_search_goes_along_the_scaled_direction_and_knows_where_it_is(name):
    """Of lbfgs too, taken apart. One search is a large program: no second one here."""
    direction = optax.chain(optax.scale_by_lbfgs(), optax.scale(-1.0))
    tx = chain(agvm(**FIXED), direction, cases.SEARCHES[name])
    value, grads = value_and_grad(PARAMS)
    state = tx.init(PARAMS)
    updates, state = jax.jit(tx.update, static_argnames="value_fn")(
        grads, state, PARAMS, value=value, grad=grads, value_fn=loss, phi=PHI
    )
    way, _ = doubled(direction).update(grads, direction.init(PARAMS), PARAMS)
    rate = state[-1].learning_rate
    assert_close(updates, jax.tree.map(lambda leaf: rate * leaf, way))
    there = value_and_grad(optax.apply_updates(PARAMS, updates))
    assert_close((state[-1].value, state[-1].grad), there)


@pytest.mark.parametrize("name", cases.EITHER_SIDE)
def test_either_side_is_right(name):
    wrapper, sgd = cases.EITHER_SIDE[name], optax.sgd(RATE)
    compiled = name in LOOPS
    without = run(wrapper(sgd), compiled=compiled)
    expected = run(wrapper(doubled(sgd)), compiled=compiled)
    assert head_moved(expected, without)
    for tx in (wrapper(modulated(sgd)), modulated(wrapper(sgd))):
        steps = run(tx, compiled=compiled, phi=PHI)
        assert_close(steps, expected)
        assert_anchor_as_without(steps, without)


@pytest.mark.parametrize("name", cases.INSIDE)
def test_what_agvm_goes_around(name):
    tx = cases.INSIDE[name]
    compiled = name in LOOPS
    steps = run(modulated(tx), compiled=compiled, phi=PHI)
    assert_close(steps, run(doubled(tx), compiled=compiled))
    assert_anchor_as_without(steps, run(tx, compiled=compiled))


@pytest.mark.parametrize("name", cases.PRIVATE)
def test_gradients_of_examples_are_aggregated_first(name):
    tx = cases.PRIVATE[name]
    steps = run(modulated(tx), per_example=True, phi=PHI)
    assert_close(steps, run(doubled(tx), per_example=True))
    with pytest.raises(ValueError, match="before they are clipped. Write chain"):
        modulate(tx, "data").init(PARAMS)


@pytest.mark.parametrize("name", cases.REFUSED)
def test_the_refusal_says_what_to_write(name):
    tx, instead = cases.REFUSED[name]
    with pytest.raises(ValueError, match=f"cannot scale what comes out.*{instead}"):
        modulated(tx).init(PARAMS)


# {what: (nesting, the transform inside)}: replicas' own gradients go in.
ON_AN_AXIS = {
    **{
        name: ({**cases.EITHER_SIDE, **cases.AROUND}[name], optax.sgd(RATE))
        for name in (
            "conditionally_mask",
            "inject_hyperparams",
            "masked",
            "MultiSteps",
            "partition",
            "lookahead",
            "contrib.schedule_free",
        )
    },
    **{
        name: (lambda tx: tx, {**cases.ONE_RATE_FOR_ALL, **cases.INSIDE}[name])
        for name in (
            "apply_if_finite",
            "conditionally_transform",
            "contrib.momo",
            "contrib.prodigy",
        )
    },
    "contrib.dog": (
        lambda tx: optax.chain(tx, cases.IN_FRONT["contrib.dog"]),
        optax.identity(),
    ),
}


@pytest.mark.parametrize("name", ON_AN_AXIS)
def test_it_works_with_gradients_of_replicas(name):
    nesting, inside = ON_AN_AXIS[name]
    compiled = name in LOOPS
    steps = on_replicas(nesting(modulate(inside, **ON_REPLICAS)), compiled=compiled)
    assert_close(steps, run(nesting(doubled(inside)), compiled=compiled))


@pytest.mark.parametrize(
    "tx",
    [
        cases.AROUND["contrib.mechanize"](modulate(optax.sgd(RATE), **ON_REPLICAS)),
        optax.apply_if_finite(modulate(optax.sgd(RATE), **ON_REPLICAS), 3),
        optax.conditionally_transform(
            modulate(optax.sgd(RATE), **ON_REPLICAS), cases.later
        ),
    ],
    ids=["mechanize", "apply_if_finite", "conditionally_transform"],
)
def test_what_looks_at_gradients_outside_of_agvm_makes_replicas_differ(tx):
    with pytest.raises(ValueError, match="out_axes"):
        jax.eval_shape(lambda: on_replicas(tx, steps=2))


def test_a_step_is_skipped_on_all_replicas_if_it_is_bad_on_one():
    tx = modulate(optax.apply_if_finite(optax.sgd(RATE), 3), **ON_REPLICAS)
    bad = jax.vmap(
        lambda own: run(tx, own, compiled=True), axis_name="data", out_axes=None
    )(jnp.array([0.5, jnp.nan]))
    assert_close(bad[-1], PARAMS)


def test_the_table_in_the_docs_is_the_one_tested_here():
    section = PAGE.read_text().split("## What wraps what")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", section, re.M)
    found = [
        (re.findall(r"`(.*?)`", write), set(re.findall(r"`(.*?)`", names)))
        for names, write in rows
    ]
    assert found == [([w] if w else [], set(names)) for w, names in cases.ROWS]


def test_every_transform_of_optax_is_in_the_table():
    known = {name for _, names in cases.ROWS for name in names}
    assert not known & cases.HELPERS
    public = set(_transforms(optax)) | {f"contrib.{n}" for n in _transforms(contrib)}
    assert public == known | cases.HELPERS


def _transforms(module):
    """Public functions of Optax that are not losses or schedules."""
    for name in dir(module):
        value = getattr(module, name)
        value = getattr(value, "func", value)  # nadam is a partial of adam
        home = getattr(value, "__module__", "") or ""
        apart = ("optax.losses", "optax.schedules._schedule", "optax.schedules._join")
        if name.startswith("_") or not home.startswith("optax"):
            continue
        if callable(value) and not (inspect.isclass(value) or home.startswith(apart)):
            yield name
    if module is optax:
        yield "MultiSteps"
