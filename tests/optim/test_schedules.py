"""Learning rates: the batch-size rules, warm-ups and decays against their formulas."""

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agvm_jax.optim import schedules


def config(**changes):
    keys = dict(
        lr=0.02,
        lr_batch=16,
        lr_rule="sqrt_above",
        linear_limit=128,
        warmup="exponential",
        warmup_epochs=2.0,
        warmup_steps=-1,
        warmup_ratio=1e-3,
        schedule="step",
        decay_at=(0.75, 0.875),
        decay_factor=0.1,
        poly_power=0.9,
        end_ratio=0.0,
    )
    return SimpleNamespace(**{**keys, **changes})


@pytest.mark.parametrize(
    "batch, rate",
    [
        (32, 0.04),
        (64, 0.08),
        (128, 0.16),
        (256, 0.2263),
        (512, 0.32),
        (1024, 0.4525),
        (1536, 0.5543),
    ],
)
def test_the_papers_rule_gives_the_papers_rates(batch, rate):
    factor, _ = schedules.batch_size_factor("sqrt_above", batch, 16, 128)
    assert 0.02 * factor == pytest.approx(rate, rel=2e-4)


def test_a_base_batch_above_the_limit_scales_by_the_root_alone():
    factor, _ = schedules.batch_size_factor("sqrt_above", 10240, 4096, 128)
    assert factor == pytest.approx(math.sqrt(2.5))


def test_semantic_segmentation_stays_linear_to_256():
    factor, why = schedules.batch_size_factor("sqrt_above", 256, 16, 256)
    assert (factor, why) == (16.0, "linear up to 256")


@pytest.mark.parametrize("rule, factor", [("linear", 4), ("sqrt", 2), ("none", 1)])
def test_the_other_rules_are_what_they_are_called(rule, factor):
    assert schedules.batch_size_factor(rule, 64, 16)[0] == pytest.approx(factor)


def test_the_reason_is_a_sum_one_can_follow():
    _, reason, steps = schedules.learning_rate_schedule(config(), 800, 1000, 62.5)
    assert "0.02 per 16 x 20.0 (sqrt above 128) = 0.4" in reason
    assert "exponential warm-up over 125 steps" in reason
    assert "x 0.1 at steps 750, 875 of 1000" in reason
    assert steps == 125


def test_the_exponential_warmup_is_mmcvs():
    climb = jax.jit(jax.vmap(schedules.warmup("exponential", 920, 1e-3)))
    count = np.arange(1000)
    expected = np.where(count < 920, 1e-3 ** (1 - count / 920), 1.0)
    np.testing.assert_allclose(climb(jnp.arange(1000)), expected, rtol=2e-6)


def test_the_linear_warmup_adds_the_same_amount_every_step():
    rates = np.array(jax.vmap(schedules.warmup("linear", 8, 0.2))(jnp.arange(10)))
    np.testing.assert_allclose(np.diff(rates[:9]), 0.1, rtol=1e-5)
    assert rates[0] == pytest.approx(0.2) and rates[8] == rates[9] == 1.0


@pytest.mark.parametrize("kind", schedules.DECAYS)
def test_decays_follow_their_formulas(kind):
    total, count = 40, np.arange(41)
    share = count / total
    expected = {
        "constant": np.ones(41),
        "step": 0.1 ** ((share >= 0.5).astype(float) + (share >= 0.75)),
        "poly": 0.05 + 0.95 * (1 - share) ** 0.9,
        "cosine": 0.05 + 0.95 * (1 + np.cos(np.pi * share)) / 2,
    }[kind]
    fall = schedules.decay(kind, total, decay_at=(0.5, 0.75), end_ratio=0.05)
    got = [float(fall(t)) for t in count]
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_two_drops_on_one_step_both_count():
    fall = schedules.decay("step", 2, decay_at=(0.4, 0.6))
    assert float(fall(1)) == pytest.approx(0.01)


def test_the_parts_are_multiplied():
    optim = config(warmup_steps=10, warmup_ratio=0.5, schedule="poly", poly_power=1.0)
    schedule, _, steps = schedules.learning_rate_schedule(optim, 16, 20, 5)
    assert steps == 10
    for t in (0, 5, 10, 15):
        expected = 0.02 * 0.5 ** (1 - min(t / 10, 1)) * (1 - t / 20)
        assert float(schedule(t)) == pytest.approx(expected, rel=1e-5)
        assert float(jax.jit(schedule)(t)) == pytest.approx(expected, rel=1e-5)


def test_a_warmup_longer_than_the_run_is_said_aloud():
    _, reason, _ = schedules.learning_rate_schedule(config(), 16, 3, 100)
    assert "all 3 steps of this run lie inside it" in reason


@pytest.mark.parametrize(
    "changes, word",
    [
        (dict(lr=0.0), "optim.lr is 0.0"),
        (dict(lr=float("nan")), "optim.lr is nan"),
        (dict(lr_rule="cubic"), "'cubic'; choose one of sqrt_above"),
        (dict(lr_batch=0), "optim.lr_batch is 0"),
        (dict(warmup="slow"), "'slow'; choose one of exponential"),
        (dict(warmup_ratio=0.0), "warmup_ratio is 0.0"),
        (dict(warmup_epochs=-1.0), "warm-up lasts -10 steps"),
        (dict(schedule="stairs"), "'stairs'; choose one of constant"),
        (dict(decay_at=(8.0,)), "holds 8.0"),
    ],
)
def test_a_bad_value_is_named_with_its_remedy(changes, word):
    with pytest.raises(ValueError, match=word):
        schedules.learning_rate_schedule(config(**changes), 16, 100, 10)


def test_a_run_without_steps_is_refused():
    with pytest.raises(ValueError, match="0 steps"):
        schedules.learning_rate_schedule(config(), 16, 0, 10)
