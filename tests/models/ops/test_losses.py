"""Focal and L1 losses beside their formulas in float64, and their gradients."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.ops.forms import use_forms
from models.ops.losses import sigmoid_focal_loss, smooth_l1


@pytest.fixture(params=["cpu", "gpu"], autouse=True)
def forms(request):
    """Every test here runs for each form; a TPU's is that of GPUs."""
    with use_forms(request.param):
        yield request.param


def slow_focal_loss(logits, targets, alpha, gamma):
    """Lin et al., eq. 5, in float64 and with nothing but the formula."""
    p = 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
    p_t = np.where(targets, p, 1.0 - p)
    alpha_t = np.where(targets, alpha, 1.0 - alpha)
    return -alpha_t * (1.0 - p_t) ** gamma * np.log(p_t)


def cases():
    rng = np.random.default_rng(0)
    return rng.normal(0, 4, 200).astype(np.float32), rng.random(200) < 0.5


@pytest.mark.parametrize(
    ("alpha", "gamma"), [(0.25, 2.0), (0.25, 0.0), (0.6, 0.5), (0.5, 5.0)]
)
def test_the_focal_loss_is_its_formula(alpha, gamma):
    logits, targets = cases()
    loss = sigmoid_focal_loss(jnp.asarray(logits), targets, alpha, gamma)
    expected = slow_focal_loss(logits, targets, alpha, gamma)
    np.testing.assert_allclose(np.asarray(loss), expected, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("alpha", "gamma"), [(0.25, 2.0), (0.25, 0.0), (0.6, 0.5), (0.5, 5.0)]
)
def test_the_focal_gradient_is_the_slope_of_the_formula(alpha, gamma):
    logits, targets = cases()
    gradient = jax.grad(lambda x: sigmoid_focal_loss(x, targets, alpha, gamma).sum())(
        jnp.asarray(logits)
    )
    step = 1e-5
    wide = logits.astype(np.float64)
    slope = (
        slow_focal_loss(wide + step, targets, alpha, gamma)
        - slow_focal_loss(wide - step, targets, alpha, gamma)
    ) / (2 * step)
    np.testing.assert_allclose(np.asarray(gradient), slope, rtol=1e-4, atol=1e-7)


def test_without_focus_it_is_half_the_binary_cross_entropy():
    logits, targets = cases()
    loss = sigmoid_focal_loss(jnp.asarray(logits), targets, 0.5, 0.0)
    entropy = np.logaddexp(0, np.where(targets, -logits, logits).astype(np.float64))
    np.testing.assert_allclose(np.asarray(loss), 0.5 * entropy, rtol=1e-5)


def test_extreme_logits_have_finite_loss_and_gradient():
    logits = jnp.array([-1e4, -200.0, 0.0, 200.0, 1e4] * 2)
    targets = jnp.arange(10) < 5
    loss, gradient = jax.value_and_grad(lambda x: sigmoid_focal_loss(x, targets).sum())(
        logits
    )
    chex.assert_tree_all_finite((loss, gradient))
    # A sure and wrong decision costs its logit; a sure and right one costs nothing.
    each = sigmoid_focal_loss(logits, targets)
    np.testing.assert_allclose(each[:2], [2500.0, 50.0], rtol=1e-5)
    np.testing.assert_array_equal(each[3:5], [0.0, 0.0])
    np.testing.assert_allclose(gradient[:2], [-0.25, -0.25], rtol=1e-5)


def test_the_focal_loss_of_bfloat16_logits_is_float32_and_its_gradient_bfloat16():
    logits = jnp.ones(3, jnp.bfloat16)
    targets = jnp.array([True, False, True])
    assert sigmoid_focal_loss(logits, targets).dtype == jnp.float32
    gradient = jax.grad(lambda x: sigmoid_focal_loss(x, targets).sum())(logits)
    assert gradient.dtype == jnp.bfloat16


def test_smooth_l1_is_a_parabola_near_zero_and_a_line_beyond():
    difference = jnp.array([-2.0, -0.5, -0.25, 0.0, 0.25, 0.5, 2.0])
    loss = smooth_l1(difference, jnp.zeros(7), beta=0.5)
    np.testing.assert_allclose(
        loss, [1.75, 0.25, 0.0625, 0.0, 0.0625, 0.25, 1.75], rtol=1e-6
    )


def test_smooth_l1_without_a_parabola_is_the_distance_with_slope_zero_at_zero():
    difference = jnp.array([-2.0, 0.0, 3.0])
    loss, gradient = jax.value_and_grad(lambda x: smooth_l1(x, jnp.zeros(3)).sum())(
        difference
    )
    assert loss == 5.0
    assert gradient.tolist() == [-1.0, 0.0, 1.0]


def test_a_negative_beta_is_refused():
    with pytest.raises(ValueError, match="beta is -1"):
        smooth_l1(jnp.zeros(1), jnp.zeros(1), beta=-1.0)
