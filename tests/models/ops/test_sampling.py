"""Samples have the promised size and shares, and every candidate the same chance."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.ops.sampling import sample_balanced

COUNT = 30


@functools.cache
def compiled(size, fraction):
    return jax.jit(
        functools.partial(sample_balanced, size=size, positive_fraction=fraction)
    )


@pytest.mark.parametrize(
    ("num_positive", "num_negative", "expected"),
    [
        (10, 20, (3, 9)),  # both are plenty
        (2, 20, (2, 10)),  # negatives make up for positives
        (10, 4, (3, 4)),  # but positives not for negatives
        (0, 20, (0, 12)),
        (10, 0, (3, 0)),
        (0, 0, (0, 0)),
    ],
)
def test_the_sample_has_as_many_of_each_as_it_may(num_positive, num_negative, expected):
    rng = np.random.default_rng(0)
    kind = np.zeros(COUNT, int)
    kind[:num_positive], kind[num_positive:][:num_negative] = 1, 2
    kind = rng.permutation(kind)
    rows, chosen, is_positive = compiled(12, 0.25)(
        jax.random.key(0), jnp.asarray(kind == 1), jnp.asarray(kind == 2)
    )
    assert (is_positive.sum(), (chosen & ~is_positive).sum()) == expected
    assert (np.diff(is_positive.astype(int)) <= 0).all()  # positives stand first
    assert (kind[rows[is_positive]] == 1).all()
    assert (kind[rows[chosen & ~is_positive]] == 2).all()
    assert len(set(rows[chosen].tolist())) == chosen.sum()
    assert not rows[~chosen].any() and not (is_positive & ~chosen).any()


def test_every_candidate_is_drawn_equally_often():
    positive = jnp.arange(COUNT) < 10
    samples = 4000
    sample = functools.partial(sample_balanced, size=12, positive_fraction=0.25)
    rows, _, _ = jax.jit(jax.vmap(sample, in_axes=(0, None, None)))(
        jax.random.split(jax.random.key(1), samples), positive, ~positive
    )
    share = np.bincount(np.asarray(rows).ravel(), minlength=COUNT) / samples
    # 3 of 10 and 9 of 20; a share's standard deviation is below 0.008.
    np.testing.assert_allclose(share[:10], 0.3, atol=0.04)
    np.testing.assert_allclose(share[10:], 0.45, atol=0.04)


def test_early_candidates_of_many_do_not_win_ties():
    """Of 2 ** 17 with twelve random bits each, the earliest of 32 would win."""
    none = jnp.zeros(2**17, bool)
    sample = functools.partial(sample_balanced, size=1, positive_fraction=0.0)
    rows, _, _ = jax.jit(jax.vmap(sample, in_axes=(0, None, None)))(
        jax.random.split(jax.random.key(2), 64), none, ~none
    )
    # Of 64 uniform numbers the mean has a standard deviation of 0.036.
    assert 0.35 < rows.mean() / none.size < 0.65


def test_a_sample_larger_than_what_there_is_takes_everything():
    positive = jnp.arange(COUNT) % 3 == 0
    rows, chosen, is_positive = compiled(100, 0.5)(
        jax.random.key(0), positive, ~positive
    )
    assert rows.shape == (100,)
    assert sorted(rows[chosen].tolist()) == list(range(COUNT))
    assert is_positive.sum() == positive.sum()


def test_without_a_share_no_positive_is_drawn():
    positive = jnp.arange(COUNT) < 10
    _, chosen, is_positive = compiled(12, 0.0)(jax.random.key(0), positive, ~positive)
    assert chosen.all() and not is_positive.any()


@pytest.mark.parametrize(("size", "fraction"), [(0, 0.5), (4, 1.5), (4, -0.1)])
def test_an_impossible_sample_is_refused(size, fraction):
    flags = jnp.ones(4, bool)
    with pytest.raises(ValueError, match="a sample of"):
        sample_balanced(
            jax.random.key(0), flags, ~flags, size=size, positive_fraction=fraction
        )
