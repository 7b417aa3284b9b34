"""What is frozen: which arrays, that nothing moves them, and that the rest learns."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.backbones.resnet import ResNet
from models.backbones.swin import Swin

BACKBONES = {
    "resnet": lambda: ResNet(18, width=1 / 16, norm="local", rngs=nnx.Rngs(0)),
    "swin": lambda: Swin("t", width=1 / 8, drop_path=0.5, rngs=nnx.Rngs(0)),
}
# Kind -> what is frozen with two parts, and one part more.
FROZEN = {
    "resnet": ({"conv1", "bn1", "layer1"}, {"layer2"}),
    "swin": (
        {"patch_embed", "layer1", "norm1", "merge2"},
        {"layer2", "norm2", "merge3"},
    ),
}


def images():
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(2, 40, 56, 3)), jnp.float32)


def learned(model):
    return set(nnx.to_pure_dict(nnx.state(model, nnx.Param)))


@pytest.mark.parametrize("kind", BACKBONES)
def test_parts_are_counted_from_the_image(kind):
    everything = learned(BACKBONES[kind]())
    two, third = FROZEN[kind]
    for parts, frozen in ((0, set()), (2, two), (3, two | third), (5, everything)):
        model = BACKBONES[kind]()
        model.freeze(parts)
        assert learned(model) == everything - frozen
    stem = BACKBONES[kind]()
    stem.freeze(1)
    assert learned(stem) > everything - two


@pytest.mark.parametrize("kind", BACKBONES)
def test_freezing_changes_no_output_in_evaluation(kind):
    plain, frozen = BACKBONES[kind](), BACKBONES[kind]()
    frozen.freeze(3)
    chex.assert_trees_all_equal(
        frozen(images(), train=False), plain(images(), train=False)
    )


@pytest.mark.parametrize("kind", BACKBONES)
def test_what_is_frozen_stays_in_training_and_the_rest_gets_gradients(kind):
    model = BACKBONES[kind]()
    model.freeze(2)
    graphdef, params, state = nnx.split(model, nnx.Param, nnx.BatchStat)

    @jax.jit
    def loss(params):
        model = nnx.merge(graphdef, params, state, copy=True)
        features = model(images(), train=True, key=jax.random.key(1))
        total = sum(jnp.square(x).mean() for x in features.values())
        return total, (nnx.state(model, nnx.BatchStat), features["c2"])

    slopes, (after, c2) = jax.grad(loss, has_aux=True)(params)
    for module, tree in nnx.to_pure_dict(slopes).items():
        assert any(np.any(leaf) for leaf in jax.tree.leaves(tree)), module
    before, after = nnx.to_pure_dict(state), nnx.to_pure_dict(after)
    still, _ = FROZEN[kind]
    for module in still:
        chex.assert_trees_all_equal(after[module], before[module])
    # Neither the batch's statistics nor a branch left out: as in evaluation.
    expected = model(images(), train=False)["c2"]
    np.testing.assert_allclose(c2, expected, atol=1e-5)
    moved = {name for name in before.keys() - still if "mean" in str(before[name])}
    for module in moved:  # the statistics of the others move on
        with pytest.raises(AssertionError):
            chex.assert_trees_all_equal(after[module], before[module])
    assert moved == ({"layer2", "layer3", "layer4"} if kind == "resnet" else set())


@pytest.mark.parametrize("kind", BACKBONES)
@pytest.mark.parametrize("parts", [-1, 6])
def test_a_backbone_has_five_parts(kind, parts):
    with pytest.raises(ValueError, match=f"freeze_at is {parts}: a backbone has 5"):
        BACKBONES[kind]().freeze(parts)
