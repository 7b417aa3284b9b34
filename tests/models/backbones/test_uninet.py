"""Sizes, shapes, stacks and drop path of UniNets; parity is in parity/."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.backbones.uninet import UniNet
from models.backbones.uninet_attention import Attention, TransformerBlock
from models.backbones.uninet_convolutions import FusedMBConv, MBConv
from models.backbones.uninet_layers import Layers
from models.backbones.uninet_sizes import SIZES, Architecture
from models.functional import make_detector
from models.stack import Sequence, Stack, unstack

# Two stacks: of convolutional blocks and of attention.
TINY = Architecture((1, 2, 1, 1, 1, 2), (4, 8, 8, 16, 16, 16), stem=6, head_channels=8)
# Each kind of block, without down-sampling modules.
MIXED = TINY._replace(
    repeats=(2,) * 6,
    blocks=("fused", "fused", "mb", "mb", "attention", "covariance"),
    modules=False,
)
SIZE = (37, 50)
KEY = jax.random.key(0)


def shape_of(size, **options):
    """A network of shapes alone."""
    return jax.eval_shape(lambda: UniNet(size, rngs=nnx.Rngs(0), **options))


def parameters(size):
    """Numbers of parameters of stem and stages; nothing is allocated."""
    state = nnx.state(shape_of(size), nnx.Param)
    return {
        name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(part))
        for name, part in nnx.to_pure_dict(state).items()
    }


# The comments of the released code, and of the table in its README, in thousands.
@pytest.mark.parametrize(
    ("size", "thousands"),
    [
        ("b0", 11_451),
        ("b1", 11_451),
        ("b2", 16_211),
        ("b3", 24_020),
        ("b4", 43_796),
        ("b5", 72_883),
        ("b6", 116_687),
    ],
)
def test_the_number_of_parameters_is_the_published_one(size, thousands):
    channels = SIZES[size].channels[-1]
    # A 1x1 convolution to 1280 channels, its norm, and 1000 classes.
    head = channels * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    assert round((sum(parameters(size).values()) + head) / 1000) == thousands


def test_the_largest_has_a_billion_parameters_and_its_sibling_thirty_million():
    counts = parameters("1b")
    assert sum(counts.values()) == 1_000_456_380
    assert round(counts["stage6"] / 1e6, 2) == 764.76
    assert sum(parameters("30m").values()) == 29_930_912


@pytest.mark.parametrize("size", ["b0", "1b", "30m"])
def test_every_level_halves_the_map_rounded_up(size):
    channels = {}

    def run(images):
        model = UniNet(size, rngs=nnx.Rngs(0))
        channels.update(model.channels)
        return model(images, train=True)

    images = jax.ShapeDtypeStruct((2, 65, 101, 3), jnp.float32)
    features = jax.eval_shape(run, images)
    assert list(features) == list(channels) == ["c2", "c3", "c4", "c5"]
    assert channels["c5"] == SIZES[size].channels[-1]
    grids = [(17, 26), (9, 13), (5, 7), (3, 4)]
    for (level, feature), grid in zip(features.items(), grids, strict=True):
        assert feature.shape == (2, *grid, channels[level])


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(2, *SIZE, 3)), jnp.float32)


class Model(nnx.Module):
    """As much of a detector as `make_detector` asks for."""

    outputs = frozenset()

    def __init__(self, rngs, net, parts=0, **options):
        self.backbone = UniNet(net, norm="local", rngs=rngs, **options)
        self.backbone.freeze(parts)

    def loss(self, images, key):
        features = self.backbone(images, train=True, key=key)
        return sum(jnp.square(f - 0.5).mean() for f in features.values()), features

    def predict(self, images):
        return self.backbone(images, train=False)


def make(net, **options):
    return make_detector(functools.partial(Model, net=net, **options))


@pytest.fixture(scope="module")
def weights():
    """Weights and statistics with which every branch counts, sampled by NumPy."""
    rng = np.random.default_rng(1)

    def sample(path, leaf):
        name = path[-1].key
        if name == "kernel":
            values = rng.normal(size=leaf.shape) / math.prod(leaf.shape[-4:-1]) ** 0.5
        elif name in ("var", "scale") or name.startswith("gamma"):
            values = rng.uniform(0.5, 1.5, leaf.shape)
        else:
            values = rng.normal(size=leaf.shape) / 10
        return jnp.asarray(values, jnp.float32)

    shapes = jax.eval_shape(make(TINY).init, KEY)
    return jax.tree_util.tree_map_with_path(sample, shapes)


@pytest.fixture(scope="module")
def step(weights, images):
    """Gradients, new statistics and features of a step with drop path."""
    detector = make(TINY, drop_path=0.5)
    gradient = jax.jit(jax.grad(detector.loss, has_aux=True))
    return gradient(*weights, images, jax.random.key(1))


@pytest.fixture(scope="module")
def evaluated(weights, images):
    return jax.jit(make(TINY, drop_path=0.5).predict)(*weights, images)


@pytest.mark.slow  # every block compiled for itself; tests/models/test_stack.py is not
def test_stacked_blocks_compute_what_the_same_blocks_do_one_by_one(
    step, weights, images
):
    plain = make(TINY, drop_path=0.5, stacked=False, remat=False)
    gradient = jax.jit(jax.grad(plain.loss, has_aux=True))
    expected = gradient(*map(unstack, weights), images, jax.random.key(1))
    slopes, (moved, features) = step
    # What a bias in front of a norm gets is the rounding of zero.
    largest = max(float(abs(leaf).max()) for leaf in jax.tree.leaves(slopes))
    compare = functools.partial(chex.assert_trees_all_close, rtol=1e-3)
    compare(features, expected[1][1], atol=1e-4)
    compare(unstack(moved), expected[1][0], atol=1e-5)
    compare(unstack(slopes), expected[0], atol=1e-4 * largest)


@pytest.mark.slow  # the step takes long to compile
def test_gradients_reach_every_parameter_and_are_finite(step):
    slopes, (moved, features) = step
    chex.assert_tree_all_finite((moved, features))
    for path, leaf in jax.tree_util.tree_leaves_with_path(slopes):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(leaf).all(), name
        assert np.any(leaf), name


def test_evaluation_leaves_nothing_out(evaluated, weights, images):
    without = jax.jit(make(TINY).predict)(*weights, images)
    chex.assert_trees_all_close(evaluated, without, rtol=1e-6)


def test_bfloat16_follows_float32_over_float32_parameters(evaluated, weights, images):
    small = make(TINY, dtype=jnp.bfloat16)
    chex.assert_type(jax.tree.leaves(jax.eval_shape(small.init, KEY)), jnp.float32)
    features = jax.jit(small.predict)(*weights, images)
    for level, feature in features.items():
        assert feature.dtype == jnp.bfloat16
        exact = evaluated[level]
        difference = np.abs(feature.astype(jnp.float32) - exact)
        assert difference.mean() < 0.03 * np.abs(exact).mean(), level


def test_blocks_start_as_nothing():
    """The last norms have scale 0 and the branches of attention a factor of 1e-6."""
    layers = Layers("local", None, jnp.float32, nnx.Rngs(0))
    for make_one in (MBConv, FusedMBConv):
        block = make_one(4, 4, stride=1, expansion=2, layers=layers)
        np.testing.assert_array_equal(block.last_norm.scale[...], np.zeros(4))
        np.testing.assert_array_equal(block.last_norm.var[...], np.ones(4))
    block = TransformerBlock(
        *(4, 4),
        stride=1,
        expansion=2,
        head_channels=2,
        attention=Attention,
        layers=layers,
    )
    for gamma in (block.gamma_1, block.gamma_2):
        np.testing.assert_array_equal(gamma[...], np.full(4, 1e-6, np.float32))


def test_what_differs_in_a_stage_stands_before_the_stack():
    model = shape_of("1b")
    assert all(stage.down is None for stage in model.stages)
    assert [stage.first is not None for stage in model.stages] == [True] * 4 + [
        False,
        True,
    ]
    assert [stage.rest.count for stage in model.stages] == [3, 5, 11, 11, 12, 23]
    model = shape_of("b4")
    assert [stage.rest.count for stage in model.stages] == [2, 4, 9, 9, 9, 18]
    assert all(isinstance(stage.rest, Stack) for stage in model.stages)
    plain = shape_of(TINY, stacked=False)
    assert isinstance(plain.stage6.rest, Sequence)
    assert plain.stage1.rest is None  # one block, and it changes the channels


def test_the_program_does_not_grow_with_the_depth(images):
    def lines(repeats):
        detector = make(MIXED._replace(repeats=repeats))
        shapes = jax.eval_shape(detector.init, KEY)
        text = jax.jit(detector.predict).lower(*shapes, images).as_text()
        return len(text.splitlines())

    assert lines((2,) * 6) == lines((9,) * 6)


def test_training_with_drop_path_needs_a_key(images):
    model = shape_of(TINY, drop_path=0.4)
    with pytest.raises(ValueError, match="drop_path is 0.4.*key"):
        model(images, train=True)


def test_width_multiplies_the_channels_of_every_head():
    assert shape_of("b4", width=1 / 8).channels == {
        "c2": 8,
        "c3": 14,
        "c4": 24,
        "c5": 44,
    }


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        ("b9", {}, r"'b9'.*\['1b', '30m', 'b0'"),
        ("b0", {"width": 0.01}, "width 0.01"),
        ("b0", {"drop_path": 1.0}, r"drop_path is 1.0.*\[0, 1\)"),
        ("b0", {"norm": "none"}, "norm mode 'none'"),
    ],
)
def test_what_cannot_be_built_is_refused(size, options, message):
    with pytest.raises(ValueError, match=message):
        shape_of(size, **options)
