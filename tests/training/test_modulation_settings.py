"""AGVM's numbers for one run: what is derived, what is kept, and that all arrive."""

import dataclasses
import inspect

import pytest

from agvm_jax.optim.chaining import agvm, modulate
from agvm_jax.optim.options import AgvmOptions
from agvm_jax.training import recipes
from configs import base

SIZES = dict(batch_size=256, total_steps=1000, steps_per_epoch=100)


def build(agvm_changes=None, sizes=SIZES, **changes):
    config = base.get_config()
    config.optim.update(changes)
    config.agvm.update(agvm_changes or {})
    return recipes.build_optimizer(config.optim, config.agvm, **sizes)


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
    later = build(dict(start_delay=30), warmup_epochs=2.0)
    assert later.agvm.start_step == 230
    assert "from step 230 (end of warm-up, 30 steps later)" in later.reasons[-1]
    late = build(sizes={**SIZES, "total_steps": 50})
    assert "never in this run of 50" in late.reasons[-1]


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
    own = {"enabled", "start_delay", "modules"}
    assert set(config.agvm) - own == set(fields) - {"precondition_eps"}
    derived = {"tau": 0, "start_step": -1}  # "by itself"
    for name in set(config.agvm) - own:
        assert config.agvm[name] == derived.get(name, fields[name]), name


def test_every_option_of_the_config_arrives():
    changes = dict(
        anchor="head", estimator="norms", split="contiguous", tau=3, alpha=0.5,
        start_step=7, clip=(0.25, 4.0), eps=1e-3, average="growing", precondition=True,
    )  # fmt: skip
    others = {"enabled", "start_delay", "modules"}  # in tests of their own
    assert set(changes) == set(base.get_config().agvm) - others
    resolved = build(changes, name="adamw", eps=1e-5).agvm
    for name, value in changes.items():
        assert getattr(resolved, name) == value
    assert resolved.precondition_eps == 1e-5
