"""Shapes, weights and names of the ResNets; parity with torchvision is in parity/."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.backbones.resnet import ResNet


def abstract_features(depth, size, **options):
    """Return the shapes of the features and the module's channels, uncomputed."""
    channels = {}

    def run(images):
        model = ResNet(depth, rngs=nnx.Rngs(0), **options)
        channels.update(model.channels)
        return model(images, train=True)

    shape = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    return jax.eval_shape(run, shape), channels


def number_of_parameters(depth):
    make = functools.partial(ResNet, depth)
    state = jax.eval_shape(lambda: nnx.state(make(rngs=nnx.Rngs(0)), nnx.Param))
    return sum(leaf.size for leaf in jax.tree.leaves(state))


# torchvision's counts, less the classifiers' 513,000 and 2,049,000.
@pytest.mark.parametrize(
    ("depth", "count"),
    [
        (18, 11_689_512 - 513_000),
        (34, 21_797_672 - 513_000),
        (50, 25_557_032 - 2_049_000),
    ],
)
def test_the_number_of_parameters_is_torchvisions(depth, count):
    assert number_of_parameters(depth) == count


@pytest.mark.parametrize(("depth", "c5"), [(18, 512), (34, 512), (50, 2048)])
def test_every_level_halves_the_map_rounded_up(depth, c5):
    features, channels = abstract_features(depth, (65, 96))
    assert list(features) == list(channels) == ["c2", "c3", "c4", "c5"]
    assert channels["c5"] == c5
    grids = [(17, 24), (9, 12), (5, 6), (3, 3)]
    for (level, feature), grid in zip(features.items(), grids, strict=True):
        assert feature.shape == (2, *grid, channels[level])


def test_width_multiplies_every_level():
    _, narrow = abstract_features(50, (64, 64), width=0.125)
    assert narrow == {"c2": 32, "c3": 64, "c4": 128, "c5": 256}


def test_weights_start_as_he_initialisation_by_fan_out():
    model = ResNet(18, width=0.5, rngs=nnx.Rngs(0))
    kernel = np.asarray(model.layer3[1].conv1.kernel[...])  # 3 x 3, 128 to 128
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 128)), rel=0.02)
    assert abs(kernel.mean()) < 0.001


def test_training_moves_the_averages_and_prediction_does_not():
    model = ResNet(18, width=1 / 16, rngs=nnx.Rngs(0))
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 3)))

    def averages():
        return jax.tree.map(jnp.copy, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))

    before = averages()
    trained = model(images, train=True)
    after = averages()
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), before, after)
    assert all(jax.tree.leaves(moved))
    predicted = model(images, train=False)
    chex.assert_trees_all_equal(averages(), after)
    chex.assert_tree_all_finite((trained, predicted))


def test_an_unknown_depth_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"19.*\[18, 34, 50\]"):
        ResNet(19, rngs=nnx.Rngs(0))
