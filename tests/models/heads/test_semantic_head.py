"""The semantic head's shapes, loss and refusals; parity is in tests/parity."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from agvm_jax.structures import Batch
from models.features import Features
from models.heads.semantic import STRIDES, SemanticHead


def make_head(classes=3, **settings):
    return SemanticHead(
        8, classes, rngs=nnx.Rngs(0), **{"channels": 16, "norm_groups": 4} | settings
    )


def run(head, method, features, *arguments):
    """Call a method of a head, compiled."""
    graph, state = nnx.split(head)

    @jax.jit
    def compiled(state, features):
        return getattr(nnx.merge(graph, state), method)(features, *arguments)

    return compiled(state, features)


def make_features(size=(52, 76), batch=2, strides=(*STRIDES, 64)):
    rng = np.random.default_rng(0)
    levels = [
        jnp.asarray(rng.normal(size=(batch, -(-size[0] // s), -(-size[1] // s), 8)))
        for s in strides
    ]
    return Features(
        levels=[level.astype(jnp.float32) for level in levels],
        image_size=jnp.array([size] * batch, jnp.int32),
        strides=strides,
    )


def make_batch(size=(52, 76), stride=4, fill=1, batch=2):
    cells = tuple(side // stride for side in size)
    return Batch(
        image=np.zeros((batch, *size, 3), np.uint8),
        semantic=np.full((batch, *cells), fill, np.int32),
        **dict.fromkeys(
            ("image_size", "image_id", "boxes", "classes", "valid", "crowd")
        ),
    )


def test_every_pixel_of_the_input_gets_a_class():
    head, features = make_head(), make_features()
    found = run(head, "predict", features, make_batch())
    assert found.shape == (2, 52, 76) and found.dtype == jnp.int8
    assert set(np.unique(found)) <= {0, 1, 2}
    fine = make_head(label_scale=3)
    finer = jax.eval_shape(lambda: fine.predict(features, make_batch()))
    assert finer.shape == (2, 156, 228)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_labels_may_have_any_stride_that_the_logits_are_a_multiple_of(stride):
    parts = jax.eval_shape(
        lambda: make_head().loss(make_features(), make_batch(stride=stride))
    )
    assert list(parts) == ["semantic"] and parts["semantic"].dtype == jnp.float32


def test_the_mean_is_over_labelled_pixels_of_the_batch_and_the_weight_counts():
    head, features = make_head(loss_weight=0.5), make_features()
    batch = make_batch(fill=-1)
    places = [(0, 0, 0, 2), (0, 0, 1, 2), (0, 1, 0, 2), (0, 1, 1, 2), (1, 5, 5, 0)]
    for b, i, j, k in places:
        batch.semantic[b, i, j] = k
    batch.semantic[1, 2, 3] = 3  # of no class, as void is
    logits = run(head, "__call__", features)
    assert logits.shape == (2, 13, 19, 3) and logits.dtype == jnp.float32
    logits = np.asarray(logits, np.float64)
    slow = [
        np.log(np.exp(logits[b, i, j]).sum()) - logits[b, i, j, k]
        for b, i, j, k in places
    ]
    assert np.mean(slow) == pytest.approx(np.log(3), abs=0.1)  # begins as chance
    found = run(head, "loss", features, batch)["semantic"]
    assert found == pytest.approx(np.mean(slow) / 2, rel=1e-5)


def test_all_void_gives_a_finite_zero():
    head, batch = make_head(), make_batch(fill=-1)
    graph, params = nnx.split(head)

    def loss(params):
        return nnx.merge(graph, params).loss(make_features(), batch)["semantic"]

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    assert value == 0
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_in_bfloat16_logits_are_float32():
    logits = jax.eval_shape(lambda: make_head(dtype=jnp.bfloat16)(make_features()))
    assert logits.dtype == jnp.float32


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        make_head(classes=1)
    with pytest.raises(ValueError, match="must be a multiple of norm_groups, 3"):
        make_head(norm_groups=3)
    with pytest.raises(ValueError, match="loss_weight is 0"):
        make_head(loss_weight=0)
    head = make_head()
    with pytest.raises(ValueError, match="reads levels of strides"):
        head(make_features(strides=(8, 16, 32, 64)))
    with pytest.raises(ValueError, match="semantic_stride must be 1, 2 or 4"):
        head.loss(make_features(), make_batch(stride=8))
    batch = dataclasses.replace(make_batch(), semantic=None)
    with pytest.raises(ValueError, match="set data.semantic to all or stuff"):
        head.loss(make_features(), batch)
