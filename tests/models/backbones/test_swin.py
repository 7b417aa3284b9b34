"""Shapes, weights, drop path and gradients of Swin; parity is in parity/.

Windows are tested beside loops over pixels in ops/test_windows.py.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.backbones.swin import Block, PatchEmbed, PatchMerging, Swin
from models.drop_path import branch_gains

SIZE = (37, 50)  # neither patches nor windows fit
DROP_PATH = 0.4


def number_of_parameters(size):
    state = jax.eval_shape(lambda: nnx.state(Swin(size, rngs=nnx.Rngs(0)), nnx.Param))
    return sum(leaf.size for leaf in jax.tree.leaves(state))


# torchvision's counts for T, S and B, timm's for L (the paper: 29, 50, 88 and 197
# million), less classifier and last norm, and with the four norms of the outputs.
@pytest.mark.parametrize(
    ("size", "count", "channels"),
    [
        ("t", 28_288_354, 96),
        ("s", 49_606_258, 96),
        ("b", 87_768_224, 128),
        ("l", 196_532_476, 192),
    ],
)
def test_the_number_of_parameters_is_that_of_the_paper(size, count, channels):
    classifier = 8 * channels * 1000 + 1000 + 2 * 8 * channels
    norms = 2 * (1 + 2 + 4 + 8) * channels
    assert number_of_parameters(size) == count - classifier + norms


@pytest.mark.parametrize(("size", "c5"), [("t", 768), ("b", 1024)])
def test_every_level_halves_the_map_rounded_up(size, c5):
    channels = {}

    def run(images):
        model = Swin(size, rngs=nnx.Rngs(0))
        channels.update(model.channels)
        return model(images, train=True)

    images = jax.ShapeDtypeStruct((2, 65, 101, 3), jnp.float32)
    features = jax.eval_shape(run, images)
    assert list(features) == list(channels) == ["c2", "c3", "c4", "c5"]
    assert channels["c5"] == c5
    grids = [(17, 26), (9, 13), (5, 7), (3, 4)]
    for (level, feature), grid in zip(features.items(), grids, strict=True):
        assert feature.shape == (2, *grid, channels[level])


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(2, *SIZE, 3)), jnp.float32)


@pytest.fixture(scope="module")
def model():
    return Swin("t", width=1 / 8, drop_path=DROP_PATH, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def run(model):
    """Features in evaluation, and in training by a key, from one program each."""
    graph, state = nnx.split(model)

    @functools.partial(jax.jit, static_argnames="train")
    def apply(images, key=None, *, train):
        return nnx.merge(graph, state)(images, train=train, key=key)

    return apply


def test_evaluation_leaves_nothing_out(run, images, model):
    features = run(images, train=False)
    without = Swin("t", width=1 / 8, rngs=nnx.Rngs(0))  # the same weights
    graph, state = nnx.split(without)
    plain = jax.jit(lambda images: nnx.merge(graph, state)(images, train=True))
    chex.assert_trees_all_close(plain(images), features, rtol=1e-4, atol=1e-4)
    # A LayerNorm stands on each output.
    assert set(features) == set(model.channels)
    for feature in features.values():
        np.testing.assert_allclose(feature.mean(-1), 0, atol=1e-5)
        np.testing.assert_allclose(feature.std(-1), 1, atol=0.01)


def test_the_key_decides_what_training_leaves_out(run, images):
    first = run(images, jax.random.key(0), train=True)
    again = run(images, jax.random.key(0), train=True)
    other = run(images, jax.random.key(1), train=True)
    chex.assert_trees_all_equal(first, again)
    assert not np.allclose(first["c5"], other["c5"], atol=1e-3)
    chex.assert_tree_all_finite((first, other))


def test_drop_path_rises_to_its_rate_and_keeps_the_mean(model):
    # (blocks, 2, samples)
    gains = branch_gains(model.drop_rates, 20_000, jax.random.key(0))
    rates = np.linspace(0, DROP_PATH, 12)
    np.testing.assert_allclose((gains == 0).mean((1, 2)), rates, atol=0.015)
    np.testing.assert_allclose(gains.mean((1, 2)), 1, atol=0.025)
    assert not np.array_equal(gains[-1, 0], gains[-1, 1])  # each branch has its own lot


def test_a_sample_whose_branches_are_left_out_passes_a_block_unchanged():
    block = Block(8, 2, shift=3, dtype=jnp.float32, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 9, 8, 8)), jnp.float32)
    gains = jnp.array([[1.0, 0.0, 2.0], [1.0, 0.0, 0.0]])
    y = block(x, gains)
    np.testing.assert_allclose(y[0], block(x, None)[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(y[1], x[1])
    expected = x[2] + 2 * block.attn(block.norm1(x))[2]
    np.testing.assert_allclose(y[2], expected, rtol=1e-5, atol=1e-6)


def test_training_with_drop_path_needs_a_key(model, images):
    with pytest.raises(ValueError, match="drop_path is 0.4.*key"):
        model(images, train=True)


def test_patches_are_those_of_a_convolution_on_a_padded_image(images):
    embed = PatchEmbed(6, dtype=jnp.float32, rngs=nnx.Rngs(0))
    embed.bias[...] = jnp.arange(6.0)
    x = np.pad(images, ((0, 0), (0, 3), (0, 2), (0, 0)))
    kernel = np.asarray(embed.kernel[...])
    expected = np.zeros((2, 10, 13, 6))
    for y in range(10):
        for column in range(13):
            patch = x[:, 4 * y : 4 * y + 4, 4 * column : 4 * column + 4]
            expected[:, y, column] = np.einsum("bijc,ijck->bk", patch, kernel)
    expected = embed.norm(jnp.asarray(expected + np.arange(6.0), jnp.float32))
    np.testing.assert_allclose(embed(images), expected, rtol=1e-4, atol=1e-4)


def test_merging_puts_four_neighbours_together_column_by_column():
    merge = PatchMerging(2, dtype=jnp.float32, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(1, 3, 5, 2)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    four = [padded[:, i::2, j::2] for i, j in ((0, 0), (1, 0), (0, 1), (1, 1))]
    expected = merge.reduction(merge.norm(jnp.asarray(np.concatenate(four, -1))))
    np.testing.assert_allclose(merge(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow  # the step takes long to compile
def test_gradients_reach_every_parameter_and_are_finite(model, images):
    graph, state = nnx.split(model)
    # A key by which every branch is kept in one of the samples at least.
    keys = (jax.random.key(seed) for seed in range(100))
    key = next(k for k in keys if branch_gains(model.drop_rates, 2, k).any(-1).all())

    @jax.jit
    @jax.grad
    def gradient(state):
        features = nnx.merge(graph, state)(images, train=True, key=key)
        # The sum of a normalised output does not depend on what it is made of.
        return sum(jnp.square(f - 0.5)[..., 0].sum() for f in features.values())

    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(state)):
        name = jax.tree_util.keystr(path)
        assert jnp.isfinite(leaf).all(), name
        assert jnp.any(leaf != 0), name


def test_bfloat16_follows_float32_over_float32_parameters(run, images):
    model = Swin("t", width=1 / 8, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    graph, state = nnx.split(model)
    chex.assert_type(jax.tree.leaves(state), jnp.float32)
    features = jax.jit(lambda images: nnx.merge(graph, state)(images, train=False))(
        images
    )
    exact = run(images, train=False)
    for level, feature in features.items():
        assert feature.dtype == jnp.bfloat16
        difference = np.abs(feature.astype(jnp.float32) - exact[level])
        assert difference.mean() < 0.02, level


def test_width_multiplies_the_channels_of_every_head():
    assert Swin("s", width=1 / 16, rngs=nnx.Rngs(0)).channels == {
        "c2": 6,
        "c3": 12,
        "c4": 24,
        "c5": 48,
    }


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        ("m", {}, r"'m'.*\['b', 'l', 's', 't'\]"),
        ("t", {"width": 0.01}, "width 0.01"),
        ("t", {"drop_path": 1.0}, r"drop_path is 1.0.*\[0, 1\)"),
    ],
)
def test_what_cannot_be_built_is_refused(size, options, message):
    with pytest.raises(ValueError, match=message):
        Swin(size, rngs=nnx.Rngs(0), **options)
