"""With the same weights our semantic head computes what a plain torch module does.

`make_semantic_oracle.py` has the module, written from the paper.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from seeded_semantic import (
    CHANNELS,
    GROUPS,
    IN_CHANNELS,
    NUM_CLASSES,
    SIZES,
    make_labels,
    make_levels,
    seeded,
)

from agvm_jax.structures import Batch
from models.features import Features
from models.heads.semantic import STRIDES, SemanticHead

ORACLE = np.load(Path(__file__).with_name("semantic_oracle.npz"))


def torch_name(path):
    """levels, 0, 1, conv, kernel -> levels.0.1.conv.weight"""
    words = [str(getattr(entry, "key", entry)) for entry in path]
    ends = {"kernel": "weight", "scale": "weight"}
    return ".".join([*words[:-1], ends.get(words[-1], words[-1])])


def seeded_kernel(path, like):
    if like.ndim == 1:
        return jnp.asarray(seeded(torch_name(path), like.shape))
    shape = tuple(like.shape[i] for i in (3, 2, 0, 1))
    return jnp.asarray(seeded(torch_name(path), shape).transpose(2, 3, 1, 0))


def head_and_params():
    head = SemanticHead(
        IN_CHANNELS,
        NUM_CLASSES,
        channels=CHANNELS,
        norm_groups=GROUPS,
        rngs=nnx.Rngs(0),
    )
    graph, state = nnx.split(head)
    params = jax.tree_util.tree_map_with_path(seeded_kernel, nnx.to_pure_dict(state))
    nnx.replace_by_pure_dict(state, params)
    return graph, state


@pytest.mark.parametrize("index", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_the_branch_is_that_of_the_paper(index):
    size = SIZES[index]
    labels = make_labels(size)
    graph, state = head_and_params()
    levels = [jnp.asarray(x) for x in make_levels(size)]
    batch = Batch(
        np.zeros((len(labels), *size, 3), np.uint8),
        *[None] * 6,
        semantic=labels.astype(np.int32),
    )

    @jax.jit
    def run(state, p5):
        def loss(state, p5):
            head = nnx.merge(graph, state)
            features = Features([*levels[:3], p5], None, STRIDES)
            logits, classes = head(features), head.predict(features, batch)
            return head.loss(features, batch)["semantic"], (logits, classes)

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(state, p5)

    (loss, (logits, classes)), (gradient, p5_gradient) = run(state, levels[3])
    assert loss == pytest.approx(float(ORACLE[f"loss_{index}"]), rel=1e-5)
    every = int(ORACLE["every"])
    whole = jax.image.resize(
        logits, (*logits.shape[:1], *size, NUM_CLASSES), "bilinear", antialias=False
    )
    np.testing.assert_allclose(
        whole[:, ::every, ::every], ORACLE[f"logits_{index}"], atol=1e-4
    )
    same = np.asarray(classes)[:, ::3, ::2] == ORACLE[f"classes_{index}"]
    assert same.mean() > 0.9995  # two logits may be equal but for rounding
    expected = ORACLE[f"p5_gradient_{index}"]
    np.testing.assert_allclose(
        p5_gradient, expected, atol=1e-4 * np.abs(expected).max()
    )
    flat, _ = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(gradient))
    norms = {torch_name(path): np.linalg.norm(leaf) for path, leaf in flat}
    assert sorted(norms) == ORACLE["names"].tolist()
    for name, norm in zip(
        ORACLE["names"], ORACLE[f"gradient_norms_{index}"], strict=True
    ):
        assert norms[name] == pytest.approx(norm, rel=1e-3)
