"""What is frozen: which arrays, that nothing moves them, and that the rest learns."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.backbones.resnet import ResNet
from models.backbones.swin import Swin
from models.backbones.uninet import UniNet

BACKBONES = {
    "resnet": functools.partial(ResNet, 18, width=1 / 16, norm="local"),
    "swin": functools.partial(Swin, "t", width=1 / 16, drop_path=0.5),
    "uninet": functools.partial(UniNet, "b0", width=1 / 8, norm="local", drop_path=0.5),
}
# Kind -> what is frozen with two parts, and one part more.
FROZEN = {
    "resnet": ({"conv1", "bn1", "layer1"}, {"layer2"}),
    "swin": (
        {"patch_embed", "layer1", "norm1", "merge2"},
        {"layer2", "norm2", "merge3"},
    ),
    "uninet": ({"stem", "stage1", "stage2"}, {"stage3"}),
}
# Kind -> what keeps running averages behind two frozen parts.
MOVED = {
    "resnet": {"layer2", "layer3", "layer4"},
    "swin": set(),
    "uninet": {"stage3", "stage4", "stage5", "stage6"},
}


def learned(kind, parts):
    """Names of the modules that are left to learn; nothing is computed."""

    def build():
        model = BACKBONES[kind](rngs=nnx.Rngs(0))
        model.freeze(parts)
        return nnx.to_pure_dict(nnx.state(model, nnx.Param))

    return set(jax.eval_shape(build))


@pytest.mark.parametrize("kind", BACKBONES)
def test_parts_are_counted_from_the_image(kind):
    everything, stem = learned(kind, 0), learned(kind, 1)
    two, third = FROZEN[kind]
    assert learned(kind, 2) == everything - two
    assert learned(kind, 3) == everything - two - third
    assert learned(kind, 5) == set()
    assert everything - two < stem < everything


@pytest.mark.parametrize(
    "kind",
    # Two models in one program: those of many parts compile for long.
    ["resnet", *(pytest.param(k, marks=pytest.mark.slow) for k in ("swin", "uninet"))],
)
def test_freezing_changes_no_output_in_evaluation(kind):
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(2, 40, 56, 3)), jnp.float32)

    @jax.jit
    def run():
        plain, frozen = (BACKBONES[kind](rngs=nnx.Rngs(0)) for _ in range(2))
        frozen.freeze(3)
        return frozen(images, train=False), plain(images, train=False)

    chex.assert_trees_all_equal(*run())


@pytest.mark.parametrize("kind", BACKBONES)
@pytest.mark.slow  # two steps of whole detectors, compiled
def test_what_is_frozen_stays_in_training_and_the_rest_gets_gradients(kind):
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(2, 40, 56, 3)), jnp.float32)

    def split(parts):
        model = BACKBONES[kind](rngs=nnx.Rngs(0))
        model.freeze(parts)
        return nnx.split(model, nnx.Param, nnx.BatchStat)

    graphdef, *_ = jax.eval_shape(lambda: split(2))
    params, state = jax.jit(lambda: split(2)[1:])()

    def run(params, train):
        model = nnx.merge(graphdef, params, state, copy=True)
        features = model(images, train=train, key=jax.random.key(1))
        total = sum(jnp.square(x).mean() for x in features.values())
        return total, (nnx.state(model, nnx.BatchStat), features["c2"])

    @jax.jit
    def unfrozen_in_evaluation():
        graphdef, *values = split(0)
        return nnx.merge(graphdef, *values)(images, train=False)["c2"]

    slopes, (after, c2) = jax.jit(
        functools.partial(jax.grad(run, has_aux=True), train=True)
    )(params)
    for module, tree in nnx.to_pure_dict(slopes).items():
        assert any(np.any(leaf) for leaf in jax.tree.leaves(tree)), module
    before, after = nnx.to_pure_dict(state), nnx.to_pure_dict(after)
    still, _ = FROZEN[kind]
    for module in still:
        chex.assert_trees_all_equal(after[module], before[module])
    # Neither the batch's statistics nor a branch left out: as in evaluation, and as
    # without freezing.
    np.testing.assert_allclose(c2, unfrozen_in_evaluation(), atol=1e-5)
    moved = before.keys() - still
    for module in moved:  # the statistics of the others move on
        with pytest.raises(AssertionError):
            chex.assert_trees_all_equal(after[module], before[module])
    assert moved == MOVED[kind]


@pytest.mark.parametrize("kind", BACKBONES)
@pytest.mark.parametrize("parts", [-1, 6])
def test_a_backbone_has_five_parts(kind, parts):
    with pytest.raises(ValueError, match=f"freeze_at is {parts}: a backbone has 5"):
        learned(kind, parts)
