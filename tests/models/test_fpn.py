"""The feature pyramid: sizes, coarser levels, and doubling maps of odd size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.fpn import FPN, _by_product, _by_repetition, upsample

CHANNELS = {"c2": 2, "c3": 3, "c4": 4, "c5": 5}
GRIDS = {"c2": (17, 12), "c3": (9, 6), "c4": (5, 3), "c5": (3, 2)}


def make_features():
    rng = np.random.default_rng(0)
    return {
        level: jnp.asarray(rng.normal(size=(1, *GRIDS[level], CHANNELS[level])))
        for level in CHANNELS
    }


def make_pyramid(**options):
    pyramid = FPN(CHANNELS, 4, rngs=nnx.Rngs(0), **options)
    return pyramid, pyramid(make_features())


def torch_nearest(x, size):
    """torch's interpolate(mode="nearest"): source = floor(target * in / out)."""
    rows, columns = (
        np.floor(np.arange(out) * (inside / out)).astype(int)
        for inside, out in zip(x.shape[1:3], size, strict=True)
    )
    return np.asarray(x)[:, rows][:, :, columns]


@pytest.mark.parametrize("size", [(6, 8), (5, 8), (6, 7), (5, 7)])
def test_doubling_is_torchs_nearest_interpolation(size):
    x = jnp.arange(24.0).reshape(1, 3, 4, 2)
    np.testing.assert_array_equal(upsample(x, size), torch_nearest(x, size))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_the_form_for_tpus_doubles_the_same_and_gives_the_same_gradient(size, dtype):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 3, 4, 2)), dtype)
    slopes = jnp.asarray(rng.integers(-9, 9, (2, *size, 2)), dtype)
    (ours, back), (plain, plain_back) = (
        jax.vjp(functools.partial(form, size=size), x)
        for form in (_by_product, _by_repetition)
    )
    np.testing.assert_array_equal(ours, plain)
    np.testing.assert_array_equal(back(slopes)[0], plain_back(slopes)[0])


@pytest.mark.parametrize(
    ("platform", "products"), [("cpu", 0), ("cuda", 0), ("tpu", 1)]
)
def test_products_are_for_tpus_alone(platform, products):
    x = jax.ShapeDtypeStruct((1, 3, 4, 2), jnp.float32)
    doubled = jax.jit(functools.partial(upsample, size=(6, 8)))
    text = doubled.trace(x).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("dot_general") == products


@pytest.mark.parametrize("size", [(4, 8), (7, 8), (6, 9)])
def test_other_sizes_are_refused(size):
    with pytest.raises(ValueError, match="cannot double"):
        upsample(jnp.zeros((1, 3, 4, 2)), size)


@pytest.mark.parametrize("extra", ["c5", "p5"])
def test_retinanets_levels_are_p3_to_p7(extra):
    pyramid, levels = make_pyramid(extra=extra)
    assert tuple(levels) == pyramid.levels == ("p3", "p4", "p5", "p6", "p7")
    assert pyramid.strides == (8, 16, 32, 64, 128)
    shapes = [level.shape for level in levels.values()]
    grids = [(9, 6), (5, 3), (3, 2), (2, 1), (1, 1)]
    assert shapes == [(1, *grid, 4) for grid in grids]
    source = make_features()["c5"] if extra == "c5" else levels["p5"]
    np.testing.assert_allclose(levels["p6"], pyramid.p6(source), rtol=1e-6)
    p7 = pyramid.p7(jax.nn.relu(levels["p6"]))
    np.testing.assert_allclose(levels["p7"], p7, rtol=1e-6)


def test_rcnns_levels_are_p2_to_p6_and_p6_is_every_second_pixel():
    pyramid, levels = make_pyramid(first_level=2, extra="max_pool")
    assert tuple(levels) == ("p2", "p3", "p4", "p5", "p6")
    assert pyramid.strides == (4, 8, 16, 32, 64)
    np.testing.assert_array_equal(levels["p6"], levels["p5"][:, ::2, ::2])
    assert levels["p2"].shape == (1, 17, 12, 4)
    assert not hasattr(pyramid, "p7")


def test_each_level_adds_the_doubled_level_above():
    pyramid, levels = make_pyramid()
    features = make_features()
    inner = pyramid.lateral[2](features["c5"])
    for index, name in ((1, "c4"), (0, "c3")):
        lateral = pyramid.lateral[index](features[name])
        inner = lateral + torch_nearest(inner, lateral.shape[1:3])
        expected = pyramid.output[index](inner)
        np.testing.assert_allclose(levels[f"p{index + 3}"], expected, rtol=1e-5)


def test_weights_start_uniform_with_variance_of_one_over_fan_in():
    pyramid = FPN({"c3": 8, "c4": 8, "c5": 8}, 64, rngs=nnx.Rngs(0))
    kernel = np.asarray(pyramid.output[0].kernel[...])
    bound = np.sqrt(3 / (9 * 64))
    assert 0.99 * bound < abs(kernel).max() <= bound
    np.testing.assert_array_equal(pyramid.output[0].bias[...], 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extra": "p4"}, r"'p4'.*c5.*p5.*max_pool"),
        ({"first_level": 1}, r"first_level 1 needs.*c1"),
        ({"first_level": 6}, r"first_level 6"),
    ],
)
def test_levels_that_do_not_exist_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_pyramid(**options)
