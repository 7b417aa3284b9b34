"""The noise scale against gradients whose noise is known."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agvm_jax.optim import noise


class Squares(NamedTuple):
    mean_sq: dict
    sq_mean: dict
    num_groups: int


def measure(groups):
    """groups: module -> (R, d) gradients of the groups."""
    return Squares(
        {k: np.mean(np.sum(g**2, axis=1)) for k, g in groups.items()},
        {k: np.sum(np.mean(g, axis=0) ** 2) for k, g in groups.items()},
        len(next(iter(groups.values()))),
    )


def sample(rng, groups, group_size, signal, sd, size=400):
    """Gradients of groups of images that each add noise of `sd` in every direction."""
    mean = np.full(size, signal / np.sqrt(size))
    return mean + rng.normal(0, sd / np.sqrt(group_size), (groups, size))


def test_the_scale_of_known_noise_is_found():
    rng = np.random.default_rng(0)
    state = noise.noise_init(["a", "b"])
    update = jax.jit(noise.noise_update, static_argnames=("batch_size", "decay"))
    for _ in range(300):
        groups = {
            "a": sample(rng, 4, 8, signal=1.0, sd=0.5),
            "b": sample(rng, 4, 8, signal=2.0, sd=0.1),
        }
        state = update(state, measure(groups), batch_size=32)
    found = noise.noise_scale(state)
    # trace of one image's covariance = 400 sd^2, over the squared signal
    assert float(found["a"]) == pytest.approx(400 * 0.25 / 1, rel=0.05)
    assert float(found["b"]) == pytest.approx(400 * 0.01 / 4, rel=0.05)
    assert float(found["all"]) == pytest.approx((100 + 4) / (1 + 4), rel=0.05)
    assert int(state.count) == 300


def test_it_is_mccandlishs_two_batch_estimate():
    groups = {"a": sample(np.random.default_rng(1), 5, 3, 1.0, 0.2)}
    stats = measure(groups)
    small, big, b, total = stats.mean_sq["a"], stats.sq_mean["a"], 3, 15
    signal = (total * big - b * small) / (total - b)
    trace = (small - big) / (1 / b - 1 / total)
    state = noise.noise_update(
        noise.noise_init(["a"]), stats, batch_size=total, decay=0
    )
    assert float(state.signal["a"]) == pytest.approx(signal, rel=1e-4)
    assert float(state.noise["a"]) == pytest.approx(trace, rel=1e-4)
    assert float(noise.noise_scale(state)["a"]) == pytest.approx(trace / signal, 1e-4)


def test_it_does_not_depend_on_how_the_batch_is_grouped():
    rng = np.random.default_rng(2)
    images = sample(rng, 64, 1, signal=3.0, sd=0.3, size=2000)
    found = []
    for size in (2, 8, 32):
        grouped = images.reshape(64 // size, size, -1).mean(axis=1)
        state = noise.noise_update(
            noise.noise_init(["a"]), measure({"a": grouped}), batch_size=64, decay=0
        )
        found.append(float(noise.noise_scale(state)["a"]))
    np.testing.assert_allclose(found, 2000 * 0.09 / 9, rtol=0.1)


def test_equal_groups_have_no_noise():
    groups = {"a": np.ones((4, 3))}
    state = noise.noise_update(noise.noise_init(["a"]), measure(groups), batch_size=4)
    assert float(noise.noise_scale(state)["a"]) == 0


def test_a_gradient_of_pure_noise_has_no_limit():
    groups = {"a": np.array([[1.0, 0.0], [-1.0, 0.0]])}
    state = noise.noise_update(noise.noise_init(["a"]), measure(groups), batch_size=4)
    assert float(noise.noise_scale(state)["a"]) == np.inf


def test_nothing_measured_is_not_a_number():
    assert np.isnan(float(noise.noise_scale(noise.noise_init(["a"]))["all"]))


def test_a_module_without_gradient_is_unknown_and_spoils_nothing():
    groups = {"a": np.zeros((2, 3)), "b": np.array([[1.0, 0.5], [1.0, -0.5]])}
    state = noise.noise_update(
        noise.noise_init(["a", "b"]), measure(groups), batch_size=2
    )
    found = noise.noise_scale(state)
    assert np.isnan(float(found["a"]))
    assert float(found["all"]) == pytest.approx(float(found["b"]))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_measurement_that_is_not_finite_is_left_out(bad):
    good = measure({"a": np.array([[1.0, 0.5], [1.0, -0.5]])})
    state = noise.noise_update(noise.noise_init(["a"]), good, batch_size=2)
    worse = Squares({"a": bad}, good.sq_mean, 2)
    chex.assert_trees_all_equal(noise.noise_update(state, worse, batch_size=2), state)


def test_the_state_keeps_its_types_and_compiles_once():
    update = chex.assert_max_traces(n=1)(
        lambda state, q, g: noise.noise_update(state, Squares(q, g, 2), batch_size=4)
    )
    update = jax.jit(update)
    state = first = noise.noise_init(["a"])
    for i in range(3):
        state = update(state, {"a": jnp.float32(2 + i)}, {"a": jnp.float32(1)})
    chex.assert_trees_all_equal_shapes_and_dtypes(state, first)


def update(state, **kwargs):
    return noise.noise_update(state, Squares({"a": 1.0}, {"a": 1.0}, 2), **kwargs)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda s: update(s, batch_size=0), "batch size is 0"),
        (lambda s: update(s, batch_size=2, decay=1.0), "decay is 1.0"),
        (lambda s: noise.noise_init([]), "at least one"),
        (lambda s: noise.noise_init(["all"]), "rename that module"),
    ],
)
def test_what_has_no_meaning_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call(noise.noise_init(["a"]))


def test_the_sentence_names_the_batch_and_every_module():
    words = noise.useful_batch_sentence(
        {"backbone": 2310.0, "fpn": np.inf, "head": np.nan, "all": 0.2}, 64
    )
    assert "Beyond a batch of 1 images" in words
    assert "used 64" in words
    assert "backbone 2,300, fpn no limit seen, head unknown" in words


def test_the_sentence_is_honest_about_noise_and_silence():
    assert "noise throughout" in noise.useful_batch_sentence({"all": np.inf, "a": 1}, 8)
    assert "not known" in noise.useful_batch_sentence({"all": np.nan, "a": 1}, 8)
