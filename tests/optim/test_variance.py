"""phi against its definition, and what must not change it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agvm_jax.optim import label_tree, phi_of_groups
from agvm_jax.optim.stacked import stats_of_groups
from agvm_jax.optim.variance import module_sq_norms, phi_from_halves, phi_from_norms

LABELS = {"backbone": {"w": "backbone", "b": "backbone"}, "head": "head"}
estimators = pytest.mark.parametrize("estimator", ["halves", "norms"])
quick = settings(max_examples=30, deadline=None, derandomize=True)


def make_groups(seed, groups=8, signal=0.5, dtype=np.float32):
    rng = np.random.default_rng(seed)

    def leaf(*shape):
        mean = rng.normal(size=shape)
        return (signal * mean + rng.normal(size=(groups, *shape))).astype(dtype)

    return {"backbone": {"w": leaf(3, 5), "b": leaf(4)}, "head": leaf(6)}


def flat_module(groups, name):
    """Return (R, P) float64 of one module."""
    leaves = jax.tree.leaves(groups[name])
    return np.concatenate(
        [np.asarray(x, np.float64).reshape(len(x), -1) for x in leaves], axis=1
    )


def one_minus_cos(a, b):
    return 1 - a @ b / np.sqrt((a @ a) * (b @ b))


@jax.jit
def all_phis(groups):
    return {
        (estimator, split): phi_of_groups(groups, LABELS, estimator, split)
        for estimator in ("halves", "norms")
        for split in ("interleaved", "contiguous")
    }


@pytest.mark.parametrize("split", ["interleaved", "contiguous"])
def test_halves_are_one_cosine_over_all_leaves_of_a_module(split):
    groups = make_groups(0)
    phi = phi_of_groups(groups, LABELS, "halves", split)
    for name in ("backbone", "head"):
        g = flat_module(groups, name)
        a, b = (g[0::2], g[1::2]) if split == "interleaved" else (g[:4], g[4:])
        expected = one_minus_cos(a.mean(0), b.mean(0))
        np.testing.assert_allclose(phi[name], expected, rtol=1e-5)


@pytest.mark.parametrize("replicas", [2, 4, 6, 8])
def test_replicas_are_the_average_over_all_equal_splits(replicas):
    groups = make_groups(replicas, replicas)
    phi = phi_of_groups(groups, LABELS, "norms")
    for name in ("backbone", "head"):
        g = flat_module(groups, name)
        dots, squares = [], []
        for chosen in itertools.combinations(range(replicas), replicas // 2):
            rest = [r for r in range(replicas) if r not in chosen]
            a, b = g[list(chosen)].mean(0), g[rest].mean(0)
            dots.append(a @ b)
            squares.append((a @ a + b @ b) / 2)
        expected = 1 - np.mean(dots) / np.mean(squares)
        np.testing.assert_allclose(phi[name], expected, rtol=1e-5)


def test_statistics_carry_the_norms_that_the_noise_scale_needs():
    groups = make_groups(1)
    g = flat_module(groups, "backbone")
    stats = stats_of_groups(groups, LABELS, "norms")
    np.testing.assert_allclose(stats.mean_sq["backbone"], (g * g).sum(1).mean(), 1e-5)
    np.testing.assert_allclose(stats.sq_mean["backbone"], (g.mean(0) ** 2).sum(), 1e-5)
    assert int(stats.num_groups) == 8
    a, b = g[0::2].mean(0), g[1::2].mean(0)
    stats = stats_of_groups(groups, LABELS, "halves")
    np.testing.assert_allclose(stats.mean_sq["backbone"], (a @ a + b @ b) / 2, 1e-5)
    np.testing.assert_allclose(stats.sq_mean["backbone"], (g.mean(0) ** 2).sum(), 1e-5)
    assert int(stats.num_groups) == 2


@estimators
def test_equal_groups_have_phi_0_and_opposite_ones_2(estimator):
    one = make_groups(2, 2)
    equal = jax.tree.map(lambda x: np.stack([x[0]] * 4), one)
    opposite = jax.tree.map(lambda x: np.stack([x[0], -x[0]] * 2), one)
    for groups, expected in ((equal, 0.0), (opposite, 2.0)):
        phi = phi_of_groups(groups, LABELS, estimator)
        for value in phi.values():
            np.testing.assert_allclose(value, expected, atol=2e-6)


@quick
@given(
    seed=st.integers(0, 10_000),
    exponent=st.integers(-15, 15),
    signal=st.floats(0, 3),
)
def test_phi_ignores_the_scale_of_the_gradient(seed, exponent, signal):
    groups = make_groups(seed, signal=signal)
    scaled = jax.tree.map(lambda x: x * np.float32(2.0**exponent), groups)
    for before, after in zip(
        jax.tree.leaves(all_phis(groups)),
        jax.tree.leaves(all_phis(scaled)),
        strict=True,
    ):
        np.testing.assert_allclose(before, after, rtol=1e-5, atol=1e-6)


@quick
@given(seed=st.integers(0, 10_000), cut=st.integers(1, 5))
def test_phi_ignores_how_a_module_is_split_into_leaves_and_their_order(seed, cut):
    groups = make_groups(seed)
    head = groups["head"]
    other = {"x": head[:, cut:], "y": [head[:, :cut]]}
    labels = {"x": "head", "y": ["head"]}
    for estimator in ("halves", "norms"):
        np.testing.assert_allclose(
            phi_of_groups({"head": head}, {"head": "head"}, estimator)["head"],
            phi_of_groups(other, labels, estimator)["head"],
            rtol=1e-5,
            atol=1e-6,
        )


@quick
@given(seed=st.integers(0, 10_000), order=st.permutations(range(8)))
def test_replicas_ignore_the_order_of_the_groups(seed, order):
    groups = make_groups(seed)
    shuffled = jax.tree.map(lambda x: x[np.array(order)], groups)
    before, after = (all_phis(g)["norms", "interleaved"] for g in (groups, shuffled))
    for name in before:
        np.testing.assert_allclose(before[name], after[name], rtol=1e-5)


@quick
@given(
    values=st.lists(
        st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=8, max_size=8
    )
)
def test_phi_lies_in_0_to_2_or_says_that_it_is_unknown(values):
    groups = make_groups(0)
    groups["head"] = np.array(values, np.float32)[:, None] * np.ones(6, np.float32)
    for phi in all_phis(groups).values():
        assert np.isnan(phi["head"]) or 0 <= phi["head"] <= 2
        assert np.isfinite(phi["backbone"])  # a neighbour's nan stays there


@estimators
def test_a_module_without_gradient_has_no_measurement(estimator):
    groups = make_groups(0)
    groups["head"] = np.zeros_like(groups["head"])
    phi = phi_of_groups(groups, LABELS, estimator)
    assert np.isnan(phi["head"]) and np.isfinite(phi["backbone"])


@estimators
def test_bfloat16_gradients_are_summed_in_float32(estimator):
    groups = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), make_groups(3))
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), groups)
    phi, expected = (phi_of_groups(g, LABELS, estimator) for g in (groups, wide))
    for name in phi:
        assert phi[name].dtype == jnp.float32
        np.testing.assert_allclose(phi[name], expected[name], rtol=1e-6)
    # 1 + 2^-9 many times: bfloat16 would stop counting at 256.
    many = {"w": jnp.full((4096,), 1.0, jnp.bfloat16)}
    assert float(module_sq_norms(many, {"w": "w"})["w"]) == 4096.0


def test_sizes_beyond_float32s_square_are_no_measurement_and_no_crash():
    huge = jnp.float32(3e38)
    assert np.isnan(phi_from_halves(huge, jnp.float32(jnp.inf), huge))
    assert np.isfinite(phi_from_halves(huge, huge, huge))
    assert np.isnan(phi_from_norms(jnp.float32(jnp.inf), huge, 4))


def test_complex_gradients_count_as_pairs_of_real_ones():
    groups = make_groups(4)
    merged = {"head": groups["head"][:, :3] + 1j * groups["head"][:, 3:]}
    labels = label_tree(merged)
    for estimator in ("halves", "norms"):
        np.testing.assert_allclose(
            phi_of_groups(merged, labels, estimator)["head"],
            phi_of_groups(groups, LABELS, estimator)["head"],
            rtol=1e-5,
        )


def test_one_group_is_refused():
    with pytest.raises(ValueError, match="at least two replicas"):
        phi_of_groups(make_groups(0, 1), LABELS)


def test_an_odd_number_of_groups_is_refused_with_the_estimator_that_takes_it():
    with pytest.raises(ValueError, match="3 groups.*'norms'"):
        phi_of_groups(make_groups(0, 3), LABELS)
    assert np.isfinite(phi_of_groups(make_groups(0, 3), LABELS, "norms")["head"])


def test_leading_axes_that_differ_are_refused():
    groups = make_groups(0)
    groups["head"] = groups["head"][:6]
    with pytest.raises(ValueError, match="'head': 6"):
        phi_of_groups(groups, LABELS)


def test_unknown_estimators_and_splits_are_refused():
    with pytest.raises(ValueError, match="estimator='thirds'.*'halves'"):
        phi_of_groups(make_groups(0), LABELS, "thirds")
    with pytest.raises(ValueError, match="split='random'.*'interleaved'"):
        phi_of_groups(make_groups(0), LABELS, "halves", "random")


def test_labels_of_another_tree_are_refused():
    with pytest.raises(ValueError, match="labels have 1 leaves.*label_tree"):
        phi_of_groups(make_groups(0), {"head": "head"})
