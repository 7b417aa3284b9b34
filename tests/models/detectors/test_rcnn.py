"""Faster R-CNN as a whole, on a backbone of four layers so that it compiles quickly."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from agvm_jax.structures import Batch
from models.detectors.rcnn import FasterRCNN
from models.fpn import FPN
from models.functional import make_detector
from models.heads.box import BOX_WEIGHTS, BoxHead, box_loss, detect, sample_rois
from models.heads.rpn import RPNHead, propose
from models.layers import Conv
from models.ops.boxes import clip, decode

K, HEIGHT, WIDTH = 3, 64, 96
SETTINGS = {
    "anchor_sizes": (8.0, 16.0, 32.0, 64.0, 128.0),
    "anchor_scales": 1,
    "anchor_ratios": (0.5, 1.0),
    "rpn_pre_nms_top_k": (60, 40),
    "rpn_post_nms_top_k": (50, 30),
    "rpn_nms_threshold": 0.6,
    "rpn_samples": 2000,  # all anchors, so that the gradient reaches all
    "roi_samples": 16,
    "score_threshold": 0.35,
    "nms_threshold": 0.3,
    "pre_nms_top_k": 60,
    "max_detections": 12,
    "image_mean": (110.0,) * 3,
    "image_std": (60.0,) * 3,
}


class FourLayers(nnx.Module):
    """C2 to C5 by one strided convolution each."""

    channels = {"c2": 4, "c3": 4, "c4": 4, "c5": 4}

    def __init__(self, dtype, rngs):
        make = functools.partial(Conv, dtype=dtype, rngs=rngs)
        self.layers = nnx.List(
            [make(3, 4, 3, stride=4), *(make(4, 4, 3, stride=2) for _ in range(3))]
        )

    def __call__(self, x, *, train, key=None):
        del train, key
        outputs = {}
        for name, layer in zip(self.channels, self.layers, strict=True):
            x = jax.nn.relu(layer(x))
            outputs[name] = x
        return outputs


def construct(rngs, dtype=jnp.float32, **changes):
    backbone = FourLayers(dtype, rngs)
    fpn = FPN(
        backbone.channels, 8, first_level=2, extra="max_pool", dtype=dtype, rngs=rngs
    )
    rpn = RPNHead(8, num_anchors=2, dtype=dtype, rngs=rngs)
    head = BoxHead(8, K, roi_size=3, width=16, dtype=dtype, rngs=rngs)
    return FasterRCNN(backbone, fpn, rpn, head, **(SETTINGS | changes))


@pytest.fixture(scope="module")
def detector():
    return make_detector(construct)


@pytest.fixture(scope="module")
def weights(detector):
    params, model_state = detector.init(jax.random.key(0))
    # Untrained heads say next to nothing; let them speak up.
    params["rpn"]["objectness"]["kernel"] *= 100
    params["rpn"]["box_deltas"]["kernel"] *= 20
    params["box_head"]["class_logits"]["kernel"] *= 50
    params["box_head"]["box_deltas"]["kernel"] *= 500
    return params, model_state


def make_batch(boxes=((10, 10, 40, 50), (50, 5, 80, 30))):
    rng = np.random.default_rng(0)
    rows = np.zeros((2, 3, 4), np.float32)
    for row, box in enumerate(boxes):
        rows[:, row] = box
    return Batch(
        image=jnp.asarray(rng.integers(0, 256, (2, HEIGHT, WIDTH, 3)), jnp.uint8),
        image_size=jnp.array([[HEIGHT, WIDTH], [HEIGHT - 14, WIDTH - 30]], jnp.int32),
        image_id=jnp.arange(2, dtype=jnp.int32),
        boxes=jnp.asarray(rows),
        classes=jnp.asarray(rng.integers(0, K, (2, 3)), jnp.int32),
        valid=jnp.asarray(np.tile(np.arange(3) < len(boxes), (2, 1))),
        crowd=jnp.zeros((2, 3), bool),
    )


@pytest.fixture(scope="module")
def step(detector, weights):
    """Loss, parts and gradient of a batch."""
    run = jax.jit(jax.value_and_grad(detector.loss, has_aux=True))

    def evaluate(batch, seed=0):
        (loss, (_, parts)), gradient = run(*weights, batch, jax.random.key(seed))
        return loss, parts, gradient

    return evaluate


@pytest.fixture(scope="module")
def predict(detector, weights):
    run = jax.jit(detector.predict)
    return lambda batch: run(*weights, batch)


def test_its_parameters_are_the_papers_four_modules(weights):
    assert set(weights[0]) == {"backbone", "fpn", "rpn", "box_head"}


def test_the_loss_is_the_sum_of_its_parts_and_reaches_every_parameter(step):
    loss, parts, gradient = step(make_batch())
    assert set(parts) == {"objectness", "rpn_box", "classification", "box"}
    np.testing.assert_allclose(loss, sum(parts.values()), rtol=1e-6)
    assert all(part > 0 for part in parts.values())
    chex.assert_tree_all_finite(gradient)
    still = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
        if not leaf.any()
    ]
    assert not still


@pytest.mark.parametrize(
    "boxes",
    [(), ((5, 5, 5.25, 5.5),), ((5, 5, 5, 5),), ((500, 500, 520, 530),)],
    ids=["none", "smaller than a pixel", "without area", "outside the picture"],
)
def test_a_batch_of_poor_boxes_has_finite_loss_and_gradient(step, boxes):
    chex.assert_tree_all_finite(step(make_batch(boxes)))


def test_no_boxes_in_any_image_leave_no_box_loss(step):
    _, parts, gradient = step(make_batch(()))
    assert parts["rpn_box"] == parts["box"] == 0
    assert parts["objectness"] > 0 and parts["classification"] > 0
    for module in ("rpn", "box_head"):
        assert not gradient[module]["box_deltas"]["kernel"].any()


def test_what_stands_in_padding_rows_does_not_matter(step):
    batch = make_batch()
    other = dataclasses.replace(
        batch,
        boxes=batch.boxes.at[:, 2].set(jnp.array([20.0, 20.0, 60.0, 44.0])),
        crowd=batch.crowd.at[:, 2].set(True),
    )
    chex.assert_trees_all_equal(step(batch), step(other))


def test_a_padding_image_counts_for_nothing(step):
    batch = make_batch()
    ids = jnp.array([0, -1], jnp.int32)
    first = dataclasses.replace(batch, image_id=ids)
    second = dataclasses.replace(
        first,
        image=batch.image.at[1].set(7),
        boxes=batch.boxes.at[1].add(3),
        valid=batch.valid.at[1].set(False),
    )
    chex.assert_trees_all_close(step(first), step(second), rtol=1e-6)
    assert step(first)[0] != step(batch)[0]


def test_a_batch_of_padding_images_has_no_loss(step):
    batch = dataclasses.replace(make_batch(), image_id=jnp.full((2,), -1, jnp.int32))
    loss, _, gradient = step(batch)
    assert loss == 0
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient))


def test_the_key_decides_what_is_looked_at(step):
    batch = make_batch()
    assert step(batch)[0] == step(batch)[0] != step(batch, seed=1)[0]


def slow_iou(a, b):
    side = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = np.prod(np.maximum(side, 0))
    total = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared
    return shared / total if total > 0 else 0.0


def test_sampled_proposals_carry_the_annotation_that_they_overlap():
    rng = np.random.default_rng(0)
    batch = make_batch()
    corner = rng.uniform(0, 50, (2, 60, 2))
    proposals = np.concatenate([corner, corner + rng.uniform(5, 45, (2, 60, 2))], -1)
    proposals[:, :10] = batch.boxes[:, :1] + rng.uniform(-4, 4, (2, 10, 4))
    valid = rng.random((2, 60)) < 0.8
    crowd = (30.0, 30.0, 90.0, 60.0)
    batch = dataclasses.replace(
        batch,
        boxes=batch.boxes.at[:, 2].set(jnp.array(crowd)),
        valid=batch.valid.at[:, 2].set(True),
        crowd=batch.crowd.at[:, 2].set(True),
    )
    sample = jax.device_get(
        jax.jit(functools.partial(sample_rois, num_classes=K, num_samples=16))(
            jnp.asarray(proposals, jnp.float32), valid, batch, jax.random.key(0)
        )
    )
    boxes = np.asarray(batch.boxes, np.float64)
    for image in range(2):
        allowed = [*proposals[image][valid[image]], *boxes[image, :2]]
        assert sample.is_object[image].sum() == 4  # a quarter, as there are enough
        assert sample.chosen[image].sum() == 16
        for row in range(16):
            roi = sample.boxes[image, row]
            assert min(np.abs(roi - other).max() for other in allowed) < 1e-4
            overlaps = [slow_iou(roi, box) for box in boxes[image, :2]]
            if sample.is_object[image, row]:
                best = int(np.argmax(overlaps))
                assert overlaps[best] >= 0.5 and sample.rows[image, row] == best
                assert sample.labels[image, row] == batch.classes[image, best]
                back = decode(sample.targets[image, row], roi, BOX_WEIGHTS)
                np.testing.assert_allclose(back, boxes[image, best], atol=1e-3)
            else:
                assert max(overlaps) < 0.5 and sample.labels[image, row] == K
                side = np.minimum(roi[2:], crowd[2:]) - np.maximum(roi[:2], crowd[:2])
                covered = np.prod(np.maximum(side, 0)) / np.prod(roi[2:] - roi[:2])
                assert covered <= 0.5


def test_the_box_loss_is_that_of_loops():
    rng = np.random.default_rng(0)
    batch = make_batch()
    proposals = jnp.tile(batch.boxes[:, :1], (1, 9, 1)) + rng.normal(0, 8, (2, 9, 4))
    sample = sample_rois(
        proposals,
        jnp.ones((2, 9), bool),
        batch,
        jax.random.key(0),
        num_classes=K,
        num_samples=16,
    )
    assert not sample.chosen.all() and sample.is_object.any()
    logits = rng.normal(0, 2, (2, 16, K + 1)).astype(np.float32)
    deltas = rng.normal(0, 1, (2, 16, K, 4)).astype(np.float32)
    found = box_loss(jnp.asarray(logits), jnp.asarray(deltas), sample)
    entropy = distance = 0.0
    for index in zip(*np.nonzero(sample.chosen), strict=True):
        label = int(sample.labels[index])
        entropy += np.log(np.exp(logits[index]).sum()) - logits[index][label]
        if label < K:
            d = np.abs(deltas[index][label] - sample.targets[index])
            distance += np.where(d < 1 / 9, 4.5 * d**2, d - 1 / 18).sum()
    count = int(sample.chosen.sum())
    np.testing.assert_allclose(found["classification"], entropy / count, rtol=1e-5)
    np.testing.assert_allclose(found["box"], distance / count, rtol=1e-5)


def slow_nms(candidates, threshold, most):
    """The (box, score, class) that greedy NMS keeps, best first."""
    candidates = sorted(candidates, key=lambda candidate: -candidate[1])
    kept = []
    for box, score, label in candidates:
        rivals = [other for other, _, its in kept if its == label]
        if all(slow_iou(box, rival) <= threshold for rival in rivals):
            kept.append((box, score, label))
    return kept[:most]


def test_proposals_are_those_of_sorting_and_loops(detector, weights):
    batch = make_batch()

    @jax.jit
    def run(params, model_state, batch):
        module = detector.bind(params, model_state)
        outputs = module.rpn_outputs(module.features(batch, train=False), batch)
        boxes, valid = propose(
            *outputs,
            batch.image_size,
            pre_nms_top_k=40,
            max_proposals=30,
            nms_threshold=0.6,
        )
        return outputs, boxes, valid

    (logits, deltas, anchors), boxes, valid = run(*weights, batch)
    # P6 has two columns, 64 pixels apart: half of 96 is what torchvision would take.
    np.testing.assert_array_equal(anchors[4][:, 0::2].mean(axis=1), [0, 0, 64, 64])
    dropped = 0
    for image in range(2):
        candidates = []
        for level, level_logits in enumerate(logits):
            level_deltas = deltas[level][image].reshape(-1, 4)
            level_boxes = clip(
                decode(level_deltas, anchors[level]), batch.image_size[image]
            )
            order = np.argsort(-np.asarray(level_logits[image]), kind="stable")[:40]
            for row in order:
                box = np.asarray(level_boxes[row])
                if (box[2:] - box[:2] >= 1e-3).all():
                    candidates.append((box, float(level_logits[image, row]), level))
        expected = slow_nms(candidates, 0.6, 30)
        dropped += len(candidates) - len(expected)
        assert valid[image].sum() == len(expected)
        found = boxes[image][: len(expected)]
        np.testing.assert_allclose(found, [box for box, _, _ in expected], atol=1e-3)
    assert dropped > 0


def test_detections_are_those_of_sorting_and_loops():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 50, (30, 2))
    proposals = np.concatenate([corner, corner + rng.uniform(4, 40, (30, 2))], -1)
    logits = rng.normal(0, 1.5, (30, K + 1)).astype(np.float32)
    deltas = rng.normal(0, 1, (30, K, 4)).astype(np.float32)
    valid = rng.random(30) < 0.8
    size = jnp.array([60, 80])
    limits = {
        "score_threshold": 0.2,
        "nms_threshold": 0.3,
        "pre_nms_top_k": 90,
        "max_detections": 12,
    }
    boxes, scores, classes, kept = jax.jit(functools.partial(detect, **limits))(
        logits, deltas, jnp.asarray(proposals), valid, size
    )
    candidates = []
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for row in np.flatnonzero(valid):
        for label in range(K):
            if probability[row, label] > 0.2:
                box = decode(
                    jnp.asarray(deltas[row, label]), proposals[row], BOX_WEIGHTS
                )
                box = np.asarray(clip(box[None], size)[0])
                candidates.append((box, probability[row, label], label))
    expected = slow_nms(candidates, 0.3, 12)
    assert 0 < len(expected) <= kept.sum() < len(candidates)
    expected_boxes, expected_scores, labels = zip(*expected, strict=True)
    np.testing.assert_array_equal(classes[: len(expected)], labels)
    np.testing.assert_allclose(scores[: len(expected)], expected_scores, rtol=1e-5)
    np.testing.assert_allclose(boxes[: len(expected)], expected_boxes, atol=1e-3)
    assert kept.sum() == len(expected)


def test_predictions_keep_the_contract_and_do_not_look_at_annotations(predict):
    batch = make_batch()
    found = predict(batch)
    limit = SETTINGS["max_detections"]
    chex.assert_shape(found.boxes, (2, limit, 4))
    chex.assert_type(
        [found.boxes, found.scores, found.classes, found.valid],
        [jnp.float32, jnp.float32, jnp.int32, bool],
    )
    assert found.valid.any()
    assert (jnp.diff(found.scores, axis=1) <= 0).all()
    assert ((found.scores == 0) == ~found.valid).all()
    assert ((found.classes == -1) == ~found.valid).all()
    height, width = batch.image_size[1].tolist()
    assert (found.boxes[1, :, 2] <= width).all()
    assert (found.boxes[1, :, 3] <= height).all()
    blind = dataclasses.replace(
        batch, boxes=batch.boxes + 7, valid=~batch.valid, crowd=~batch.crowd
    )
    chex.assert_trees_all_equal(found, predict(blind))


def test_bfloat16_compute_keeps_loss_in_float32(weights, step):
    half = make_detector(functools.partial(construct, dtype=jnp.bfloat16))
    batch = make_batch()
    loss, (_, parts) = jax.jit(half.loss)(*weights, batch, jax.random.key(0))
    assert all(part.dtype == jnp.float32 for part in parts.values())
    # Other proposals may be sampled, so no more than roughly.
    np.testing.assert_allclose(loss, step(batch)[0], rtol=0.2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"anchor_sizes": (32.0, 64.0)}, "the levels p2, p3, p4, p5, p6"),
        ({"anchor_scales": 3}, "the RPN was built for 2 anchors"),
        ({"score_threshold": 1.5}, "score_threshold is 1.5"),
        ({"rpn_nms_threshold": -1.0}, "rpn_nms_threshold is -1.0"),
        ({"rpn_pre_nms_top_k": (0, 5)}, r"rpn_pre_nms_top_k is \(0, 5\)"),
        ({"rpn_post_nms_top_k": (5,)}, r"rpn_post_nms_top_k is \(5,\)"),
        ({"roi_samples": 0}, "roi_samples is 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_detector(functools.partial(construct, **changes))
