"""With the same weights our Swin-T computes what torchvision's does.

`make_swin_oracle.py` says how the expected values were made. The tolerance is 1e-4 of
the largest value of an output, some ten times the differences seen, which are those of
float32 through twelve blocks.
"""

from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from seeded_swin import CANVASES, make_images, make_swin_tensor

from models.backbones.swin import Swin
from models.functional import make_detector
from models.weights.placing import from_torchvision, our_path
from models.weights.rules import SWIN_RULES

ORACLE = Path(__file__).with_name("swin_oracle.npz")
# torchvision has a norm on the last output alone, before its classifier.
RULES = ((r"norm", r"backbone/norm4"), *SWIN_RULES)


def torchvision_names() -> dict[str, tuple[int, ...]]:
    """Names and shapes of `swin_t().features` and `.norm`, written by hand."""
    shapes = {"features.0.0.weight": (96, 3, 4, 4), "features.0.0.bias": (96,)}

    def norm(name, channels):
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (channels,)

    def linear(name, inputs, outputs):
        shapes[f"{name}.weight"] = (outputs, inputs)
        shapes[f"{name}.bias"] = (outputs,)

    norm("features.0.2", 96)
    for stage, count in enumerate((2, 2, 6, 2)):
        channels = 96 * 2**stage
        for block in range(count):
            name = f"features.{2 * stage + 1}.{block}"
            norm(f"{name}.norm1", channels)
            table = (13 * 13, 3 * 2**stage)
            shapes[f"{name}.attn.relative_position_bias_table"] = table
            shapes[f"{name}.attn.relative_position_index"] = (49 * 49,)
            linear(f"{name}.attn.qkv", channels, 3 * channels)
            linear(f"{name}.attn.proj", channels, channels)
            norm(f"{name}.norm2", channels)
            linear(f"{name}.mlp.0", channels, 4 * channels)
            linear(f"{name}.mlp.3", 4 * channels, channels)
        if stage < 3:
            name = f"features.{2 * stage + 2}"
            norm(f"{name}.norm", 4 * channels)
            shapes[f"{name}.reduction.weight"] = (2 * channels, 4 * channels)
    norm("norm", 768)
    return shapes


class Same(nnx.Module):
    """In the place of a norm: the stage's output as it is."""

    def __call__(self, x):
        return x


class Features(nnx.Module):
    """A Swin-T with a norm on the last output alone, and a loss of it."""

    outputs = frozenset()

    def __init__(self, rngs):
        self.backbone = Swin("t", rngs=rngs)
        self.backbone.norm1 = Same()
        self.backbone.norm2 = Same()
        self.backbone.norm3 = Same()

    def loss(self, images, key):
        features = self.backbone(images, train=True, key=key)
        return (features["c5"] ** 3).mean(), features

    def predict(self, images):
        return self.backbone(images, train=False)


@pytest.fixture(scope="module")
def oracle():
    with np.load(ORACLE) as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def detector():
    return make_detector(Features)


@pytest.fixture(scope="module")
def weights(detector):
    tensors = {
        name: make_swin_tensor(name, shape)
        for name, shape in torchvision_names().items()
    }
    shapes = jax.eval_shape(detector.init, jax.random.key(0))
    return from_torchvision(tensors, *shapes, RULES)


@pytest.fixture(scope="module")
def trained(detector, weights):
    """Features and gradients of the canvas that no window fits."""
    gradient = jax.jit(jax.grad(detector.loss, has_aux=True))
    gradients, (_, features) = gradient(
        *weights, make_images(CANVASES[0]), jax.random.key(0)
    )
    return features, gradients


def assert_equal(features, oracle, index):
    expected = [oracle[f"{level}_{index}"] for level in ("c2", "c3", "c4")]
    expected.append(oracle[f"normed_{index}"])
    for (level, feature), wanted in zip(features.items(), expected, strict=True):
        places = np.asarray(feature).reshape(-1, feature.shape[-1])
        np.testing.assert_allclose(
            places[:: oracle["every"]],
            wanted,
            rtol=0,
            atol=1e-4 * abs(wanted).max(),
            err_msg=level,
        )


def test_features_are_torchvisions_where_hardly_a_window_fits(trained, oracle):
    features, _ = trained
    assert features["c4"].shape[1:3] == (7, 9)
    assert_equal(features, oracle, 0)


def test_features_are_torchvisions_where_most_windows_fit(detector, weights, oracle):
    features = jax.jit(detector.predict)(*weights, make_images(CANVASES[1]))
    assert features["c4"].shape[1:3] == (7, 14)
    assert_equal(features, oracle, 1)


def test_gradients_are_torchvisions(trained, weights, oracle):
    """Of every parameter but those that only stand behind the last norm."""
    _, gradients = trained
    norms = {
        "/".join(key.key for key in path): np.linalg.norm(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)
    }
    shapes = torchvision_names()
    expected = {
        our_path(name, len(shapes[name]), RULES): norm
        for name, norm in zip(
            oracle["gradient_names"], oracle["gradient_norms"], strict=True
        )
    }
    assert norms.keys() - expected.keys() == {
        "backbone/norm4/scale",
        "backbone/norm4/bias",
    }
    for path, norm in expected.items():
        assert norms[path] == pytest.approx(norm, rel=5e-4), path
