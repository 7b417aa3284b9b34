"""With the same weights our UniNets compute what plain torch modules do.

`make_uninet_oracle.py` says how the expected values were made, of two networks that
have every kind of block between them. Tolerances are some ten times the differences
seen, which are those of float32.
"""

import functools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from seeded_uninet import NETS, make_images, make_uninet_tensor

from models.backbones.uninet import UniNet
from models.backbones.uninet_sizes import Architecture
from models.functional import make_detector
from models.stack import stack_again, unstack
from models.weights.placing import from_torchvision, leaf_shapes, our_path
from models.weights.uninet_rules import uninet_rules

ORACLE = Path(__file__).with_name("uninet_oracle.npz")
LEVELS = ("c2", "c3", "c4", "c5")


class Model(nnx.Module):
    outputs = frozenset()

    def __init__(self, rngs, net):
        self.backbone = UniNet(net, norm="local", rngs=rngs)

    def loss(self, images, key):
        features = self.backbone(images, train=True, key=key)
        return sum((f**3).mean() for f in features.values()), features

    def predict(self, images):
        return self.backbone(images, train=False)


class Case:
    """A network of ours with the oracle's weights, and what the oracle found."""

    def __init__(self, name):
        net = Architecture(*NETS[name])
        with np.load(ORACLE) as stored:
            self.features = {
                mode: [stored[f"{name}/{mode}/{level}"] for level in LEVELS]
                for mode in ("evaluated", "trained")
            }
            facts = json.loads(str(stored[name]))
        self.shapes = facts.pop("shapes")
        self.facts = facts
        self.detector = make_detector(functools.partial(Model, net=net))
        trees = jax.eval_shape(self.detector.init, jax.random.key(0))
        tensors = {
            key: make_uninet_tensor(key, tuple(shape))
            for key, shape in self.shapes.items()
        }
        apart = jax.eval_shape(unstack, trees[0]), jax.eval_shape(unstack, trees[1])
        self.rules = uninet_rules(leaf_shapes(*apart))
        weights = from_torchvision(tensors, *apart, self.rules)
        self.weights = [stack_again(tree) for tree in weights]

    def expected(self, kind):
        """Path -> the oracle's norm of a gradient or a running average."""
        return {
            our_path(key, len(self.shapes[key]), self.rules): norm
            for key, norm in self.facts[kind].items()
        }


@pytest.fixture(scope="module", params=NETS)
def case(request):
    return Case(request.param)


def assert_equal(features, expected):
    for level, wanted in zip(LEVELS, expected, strict=True):
        size = abs(wanted).max()
        np.testing.assert_allclose(
            features[level], wanted, rtol=0, atol=1e-5 * size, err_msg=level
        )


def norms(tree):
    return {
        "/".join(key.key for key in path): float(np.linalg.norm(leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(unstack(tree))
    }


def test_features_in_evaluation_are_the_oracles(case):
    features = jax.jit(case.detector.predict)(*case.weights, make_images())
    assert_equal(features, case.features["evaluated"])


@pytest.mark.slow  # two networks with their gradients, compiled
def test_features_gradients_and_statistics_of_a_step_are_the_oracles(case):
    gradient = jax.jit(jax.grad(case.detector.loss, has_aux=True))
    slopes, (state, features) = gradient(
        *case.weights, make_images(), jax.random.key(0)
    )
    assert_equal(features, case.features["trained"])
    for path, norm in case.expected("moved").items():
        assert norms(state)[path] == pytest.approx(norm, rel=1e-4), path
    found, expected = norms(slopes), case.expected("norms")
    assert found.keys() == expected.keys()
    largest = max(expected.values())
    for path, norm in expected.items():
        # What a bias in front of a norm gets is the rounding of zero.
        assert found[path] == pytest.approx(norm, rel=2e-3, abs=1e-6 * largest), path
