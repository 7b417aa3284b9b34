"""The feature pyramid: sizes, coarser levels, and doubling maps of odd size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference_arrays import torch_nearest

from models.fpn import FPN

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
