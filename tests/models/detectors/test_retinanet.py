"""RetinaNet as a whole, on one layer and three levels so that it compiles quickly."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from box_loops import slow_nms
from flax import nnx
from small_rcnn import POOR_BOXES

from agvm_jax.structures import Batch
from models.detectors.retinanet import RetinaNet
from models.fpn import FPN
from models.functional import make_detector
from models.heads.retina import RetinaHead
from models.layers import Conv
from models.looks import TestConfig
from models.ops.anchors import Anchors
from models.ops.boxes import clip, decode

K, HEIGHT, WIDTH = 3, 64, 96
ANCHORS = Anchors(sizes=(12.0, 24.0, 48.0), scales=2, ratios=(0.5, 1.0))
ONCE, BOTH_WAYS = TestConfig(), TestConfig(flip=True)
LIMITS = {
    "score_threshold": 0.35,
    "nms_threshold": 0.3,
    "pre_nms_top_k": 40,
    "max_detections": 25,
}


class OneLayer(nnx.Module):
    """C5, which to the pyramid may have any stride: here 8."""

    channels = {"c5": 4}

    def __init__(self, dtype, rngs):
        self.conv = Conv(3, 4, 3, stride=8, dtype=dtype, rngs=rngs)

    def __call__(self, images, *, train, key=None):
        del train, key
        return {"c5": jax.nn.relu(self.conv(images))}


class ThreeLevels(FPN):
    """P5 to P7 of a C5 of stride 8."""

    strides = (8, 16, 32)


def construct(rngs, dtype=jnp.float32, anchors=ANCHORS, looks=ONCE, **changes):
    backbone = OneLayer(dtype, rngs)
    fpn = ThreeLevels(backbone.channels, 8, first_level=5, dtype=dtype, rngs=rngs)
    settings = {"num_convs": 1} | LIMITS | changes
    head = RetinaHead(8, K, anchors, **settings, dtype=dtype, rngs=rngs)
    images = {"image_mean": (110.0,) * 3, "image_std": (60.0,) * 3}
    return RetinaNet(backbone, fpn, head, **images, test_cfg=looks)


@pytest.fixture(scope="module")
def detector():
    return make_detector(construct)


@pytest.fixture(scope="module")
def weights(detector):
    """Random values: compiling `init` takes longer than all the rest together."""
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        if path[-1].key == "bias":
            # Not every score should be above the threshold.
            return jnp.full(leaf.shape, -1.0 if "class_logits" in str(path) else 0.0)
        spread = np.sqrt(2.0 / np.prod(leaf.shape[:-1]))
        return jnp.asarray(rng.normal(0.0, spread, leaf.shape), leaf.dtype)

    shapes = jax.eval_shape(detector.init, jax.random.key(0))
    return jax.tree_util.tree_map_with_path(fill, shapes)


def make_batch(boxes=((10, 10, 40, 50), (50, 5, 80, 30)), count=2):
    rng = np.random.default_rng(0)
    rows = np.zeros((count, 2, 4), np.float32)
    for row, box in enumerate(boxes):
        rows[:, row] = box
    image_size = np.array([[HEIGHT, WIDTH], [HEIGHT - 14, WIDTH - 30]], np.int32)
    return Batch(
        image=jnp.asarray(rng.integers(0, 256, (count, HEIGHT, WIDTH, 3)), jnp.uint8),
        image_size=jnp.asarray(image_size),
        image_id=jnp.arange(count),
        boxes=jnp.asarray(rows),
        classes=jnp.asarray(rng.integers(0, K, (count, 2)), jnp.int32),
        valid=jnp.asarray(np.tile(np.arange(2) < len(boxes), (count, 1))),
        crowd=jnp.zeros((count, 2), bool),
    )


@pytest.fixture(scope="module")
def step(detector, weights):
    """Loss, parts and gradient of a batch."""
    run = jax.jit(jax.value_and_grad(detector.loss, has_aux=True))

    def evaluate(batch):
        (loss, (_, parts)), gradient = run(*weights, batch, jax.random.key(0))
        return loss, parts, gradient

    return evaluate


@pytest.fixture(scope="module")
def predict_and_outputs(detector, weights):
    @jax.jit
    def run(params, model_state, batch):
        module = detector.bind(params, model_state)
        features = module.features(batch, train=False)
        return module.predict(batch), module.head.outputs(features)

    return lambda batch: run(*weights, batch)


@pytest.fixture(scope="module")
def predict(predict_and_outputs):
    return lambda batch: predict_and_outputs(batch)[0]


def test_its_parameters_are_the_papers_three_modules(weights):
    assert set(weights[0]) == {"backbone", "fpn", "head"}


def test_the_loss_is_the_sum_of_its_parts_and_reaches_every_parameter(step):
    loss, parts, gradient = step(make_batch())
    np.testing.assert_allclose(loss, parts["classification"] + parts["box"], rtol=1e-6)
    assert parts["box"] > 0
    chex.assert_tree_all_finite(gradient)
    assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("boxes", POOR_BOXES.values(), ids=POOR_BOXES)
def test_a_batch_of_poor_boxes_has_finite_loss_and_gradient(step, boxes):
    chex.assert_tree_all_finite(step(make_batch(boxes)))


def test_no_boxes_in_any_image_leave_no_box_loss(step):
    _, parts, gradient = step(make_batch(()))
    assert parts["box"] == 0
    assert not gradient["head"]["box_deltas"]["kernel"].any()


def slow_detections(logits, deltas, anchors, image_size):
    """One image's (box, score, class), best first, by sorting and loops."""
    candidates = []
    for level_logits, level_deltas, level_anchors in zip(
        logits, deltas, anchors, strict=True
    ):
        level_deltas = level_deltas.reshape(-1, 4)
        boxes = np.asarray(clip(decode(level_deltas, level_anchors), image_size))
        scores = np.asarray(jax.nn.sigmoid(level_logits)).reshape(-1)
        for index in np.argsort(-scores, kind="stable")[: LIMITS["pre_nms_top_k"]]:
            if scores[index] > LIMITS["score_threshold"]:
                candidates.append((boxes[index // K], scores[index], index % K))
    kept = slow_nms(candidates, LIMITS["nms_threshold"], LIMITS["max_detections"])
    return kept, len(candidates)


def test_detections_are_those_of_sorting_and_loops(predict_and_outputs):
    batch = make_batch()
    found, (logits, deltas, anchors) = predict_and_outputs(batch)
    for image in range(2):
        expected, num_candidates = slow_detections(
            [level[image] for level in logits],
            [level[image] for level in deltas],
            anchors,
            batch.image_size[image],
        )
        # Something was dropped by each of the limits.
        assert 0 < len(expected) < num_candidates < 3 * LIMITS["pre_nms_top_k"]
        count = int(found.valid[image].sum())
        assert count == len(expected)
        boxes, scores, labels = zip(*expected, strict=True)
        np.testing.assert_array_equal(found.classes[image, :count], labels)
        np.testing.assert_allclose(found.scores[image, :count], scores, rtol=1e-5)
        np.testing.assert_allclose(found.boxes[image, :count], boxes, atol=1e-3)


def test_a_mirrored_image_has_mirrored_detections_if_both_are_looked_at(weights):
    """What no network has by itself: the two views change places, and nothing else."""
    both = make_detector(functools.partial(construct, looks=BOTH_WAYS))
    batch = make_batch()
    image = batch.image
    for row, (height, width) in enumerate(batch.image_size.tolist()):
        own = image[row, :height, :width]
        image = image.at[row, :height, :width].set(own[:, ::-1])
    run = jax.jit(both.predict)
    mirrored = dataclasses.replace(batch, image=image)
    found, other = (run(*weights, each) for each in (batch, mirrored))
    np.testing.assert_array_equal(found.valid, other.valid)
    np.testing.assert_allclose(found.scores, other.scores, atol=1e-5)
    assert found.valid.sum() > 6
    for row, width in enumerate(batch.image_size[:, 1].tolist()):
        count = int(found.valid[row].sum())
        x1, y1, x2, y2 = found.boxes[row, :count].T
        expected = jnp.stack([width - x2, y1, width - x1, y2], axis=1)
        np.testing.assert_allclose(other.boxes[row, :count], expected, atol=1e-2)


def test_predictions_keep_the_contract(predict):
    batch = make_batch()
    found = predict(batch)
    limit = LIMITS["max_detections"]
    chex.assert_shape(found.boxes, (2, limit, 4))
    chex.assert_type(
        [found.boxes, found.scores, found.classes, found.valid],
        [jnp.float32, jnp.float32, jnp.int32, bool],
    )
    assert (jnp.diff(found.scores, axis=1) <= 0).all()
    assert ((found.scores == 0) == ~found.valid).all()
    assert ((found.classes == -1) == ~found.valid).all()
    height, width = batch.image_size[1].tolist()
    assert (found.boxes[1, :, 2] <= width).all()
    assert (found.boxes[1, :, 3] <= height).all()
    assert (found.boxes >= 0).all()


def test_predictions_do_not_look_at_the_annotations(predict):
    batch = make_batch()
    blind = dataclasses.replace(
        batch,
        boxes=batch.boxes + 7,
        classes=batch.classes * 0,
        valid=~batch.valid,
        crowd=~batch.crowd,
    )
    chex.assert_trees_all_equal(predict(batch), predict(blind))


def test_what_lies_outside_the_image_is_not_looked_at(predict):
    batch = make_batch()
    height, width = batch.image_size[1].tolist()
    image = batch.image.at[1, height:].set(255).at[1, :, width:].set(255)
    other = dataclasses.replace(batch, image=image)
    chex.assert_trees_all_equal(predict(batch), predict(other))


def test_bfloat16_compute_keeps_loss_and_detections_in_float32(weights, step):
    half = make_detector(functools.partial(construct, dtype=jnp.bfloat16))
    batch = make_batch()
    loss, (_, parts) = jax.jit(half.loss)(*weights, batch, jax.random.key(0))
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, step(batch)[0], rtol=0.02)
    chex.assert_trees_all_equal_dtypes(parts, {"box": loss, "classification": loss})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"anchors": Anchors(sizes=(32.0, 64.0))}, "the levels p5, p6, p7"),
        ({"score_threshold": 1.5}, "model.retina_head.score_threshold is 1.5"),
        ({"nms_threshold": -1.0}, "model.retina_head.nms_threshold is -1.0"),
        ({"pre_nms_top_k": 0}, "model.retina_head.pre_nms_top_k is 0"),
        ({"max_detections": 0}, "model.retina_head.max_detections is 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_detector(functools.partial(construct, **changes))
