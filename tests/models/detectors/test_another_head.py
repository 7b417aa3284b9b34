"""A detector with another head: a class of its own and a line in the table of build.py.

Nothing else is touched: the config's section is the new head's alone.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_rcnn import BOX_HEAD, IMAGES, FourLayers, K, make_batch, make_parts

from agvm_jax.evaluation.tasks import choose_task
from agvm_jax.structures import Predictions
from configs import base
from models import build
from models.detectors.pyramid import PyramidDetector
from models.detectors.rcnn import RCNN
from models.fpn import FPN
from models.functional import make_detector
from models.heads.ranges import check_ranges
from models.layers import Conv


class CentreHead(nnx.Module):
    """At each cell of P3: is a box's centre in it, of which class, how large is it."""

    def __init__(self, in_channels, num_classes, *, weight=1.0, most=5, dtype, rngs):
        check_ranges("model.centre_head", shares={"weight": weight})
        options = {"use_bias": True, "dtype": dtype, "rngs": rngs}
        self.scores = Conv(in_channels, num_classes, 1, **options)
        self.sides = Conv(in_channels, 2, 1, **options)
        self.weight, self.most = weight, most

    def outputs(self, features):
        level = features.levels[0]
        return self.scores(level), jnp.exp(self.sides(level)) * features.strides[0]

    def loss(self, features, batch):
        scores, sides = self.outputs(features)
        stride = features.strides[0]
        corner, other = batch.boxes[..., :2], batch.boxes[..., 2:]
        column, row = jnp.moveaxis(((corner + other) / 2 // stride).astype(int), -1, 0)
        image = jnp.arange(len(scores))[:, None]
        truth = jnp.zeros_like(scores).at[image, row, column, batch.classes]
        truth = truth.add(batch.valid).clip(0, 1)
        bits = jax.nn.softplus(scores) - truth * scores
        wrong = jnp.abs(sides[image, row, column] - (other - corner)).sum(-1)
        wrong = jnp.where(batch.valid, wrong, 0).mean()
        return {"centre": bits.mean(), "sides": self.weight * wrong}

    def predict(self, features):
        def detect_one(scores, sides):
            best, place = jax.lax.top_k(scores.ravel(), self.most)
            row, column, label = jnp.unravel_index(place, scores.shape)
            centre = jnp.stack([column, row], axis=-1) * float(features.strides[0])
            half = sides[row, column] / 2
            boxes = jnp.concatenate([centre - half, centre + half], axis=-1)
            found = jax.nn.sigmoid(best)
            return Predictions(boxes, found, label.astype(jnp.int32), best > -9)

        return jax.vmap(detect_one)(*self.outputs(features))


class CentreNet(PyramidDetector):
    """A detector of one page."""

    outputs = frozenset({"boxes"})

    def __init__(self, backbone, fpn, head, **images):
        super().__init__(backbone, fpn, **images)
        self.head = head

    def loss(self, batch, key):
        parts = self.head.loss(self.features(batch, train=True, key=key), batch)
        return sum(parts.values()), parts

    def predict(self, batch):
        return self.head.predict(self.features(batch, train=False))


def build_centre_net(config, backbone, num_classes, **options):
    channels = config.fpn_channels
    fpn = FPN(backbone.channels, channels, first_level=3, **options)
    make_head = build.with_settings(CentreHead, config, "centre_head")
    head = make_head(channels, num_classes, **options)
    return CentreNet(backbone, fpn, head, **build.image_settings(config))


@pytest.fixture
def config(monkeypatch):
    """A config with a section for the new head, and the two tables with a line more."""
    monkeypatch.setitem(build.DETECTORS, "centre_net", build_centre_net)
    monkeypatch.setitem(
        build.BACKBONES,
        "four_layers",
        lambda config, *, axis_name, **options: FourLayers(**options),
    )
    config = base.get_config().model
    config.update(detector="centre_net", backbone="four_layers", fpn_channels=8)
    config.centre_head = {"weight": 0.5, "most": 7}
    return config


make = functools.partial(build.build_detector, num_classes=K, image_size=(64, 96))


def test_a_detector_with_another_head_is_built_trained_and_judged(config):
    detector = make(config)
    assert choose_task(detector.outputs).name == "detection"
    params, model_state = detector.init(jax.random.key(0))
    assert set(params) == {"backbone", "fpn", "head"}
    step = jax.jit(jax.value_and_grad(detector.loss, has_aux=True))
    batch, key = make_batch(), jax.random.key(1)
    (loss, (_, parts)), gradient = step(params, model_state, batch, key)
    np.testing.assert_allclose(loss, sum(parts.values()), rtol=1e-6)
    chex.assert_tree_all_finite(gradient)
    assert all(leaf.any() for leaf in jax.tree.leaves(gradient["head"]))
    down = jax.tree.map(lambda p, g: p - 1e-3 * g, params, gradient)
    assert step(down, model_state, batch, key)[0][0] < loss
    found = jax.eval_shape(detector.predict, params, model_state, batch)
    chex.assert_shape(found.boxes, (2, 7, 4))  # `most` of its section


def test_its_settings_are_checked_by_the_names_of_the_config(config):
    config.centre_head.weight = 2.0
    with pytest.raises(ValueError, match="model.centre_head.weight is 2.0"):
        make(config)
    del config.centre_head.weight
    config.centre_head.least = 3
    with pytest.raises(
        ValueError, match="centre_head.least is not known; .* most, weight"
    ):
        make(config)


class SemanticHead(nnx.Module):
    """The class of each pixel from its cell of P2."""

    def __init__(self, rngs):
        self.logits = Conv(8, K, 1, use_bias=True, rngs=rngs)

    def loss(self, features, batch):
        logits = self.logits(features.levels[0])
        stride = features.strides[0]
        truth = batch.image[:, ::stride, ::stride, 0] % K
        truth = jax.nn.one_hot(truth, K)
        return {"semantic": -(jax.nn.log_softmax(logits) * truth).sum(-1).mean()}

    def predict(self, features, batch):
        classes = self.logits(features.levels[0]).argmax(axis=-1)
        return jax.image.resize(classes, batch.image.shape[:3], "nearest")


def test_an_rcnn_takes_a_semantic_head():
    def construct(rngs):
        parts = make_parts(rngs)
        return RCNN(**parts, semantic_head=SemanticHead(rngs), **IMAGES)

    detector = make_detector(construct)
    assert detector.outputs == {"boxes", "semantic"}
    params, model_state = jax.eval_shape(detector.init, jax.random.key(0))
    assert set(params) == {"backbone", "fpn", "rpn", "box_head", "semantic_head"}
    batch = make_batch()
    _, (_, parts) = jax.eval_shape(
        detector.loss, params, model_state, batch, jax.random.key(0)
    )
    assert set(parts) == {"objectness", "rpn_box", "classification", "box", "semantic"}
    found = jax.eval_shape(detector.predict, params, model_state, batch)
    chex.assert_shape(found.boxes, (2, BOX_HEAD["max_detections"], 4))
    chex.assert_shape(found.semantic, (2, 64, 96))


@pytest.mark.parametrize("masks", [False, True])
def test_what_an_rcnn_gives_follows_from_its_heads(masks):
    detector = make_detector(lambda rngs: RCNN(**make_parts(rngs, masks=masks)))
    assert detector.outputs == {"boxes"} | ({"masks"} if masks else set())
    task = choose_task(detector.outputs)
    assert task.name == ("instance" if masks else "detection")
