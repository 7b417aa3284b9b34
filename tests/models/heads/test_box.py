"""The box head: what it learns from, its loss, and what it detects."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from box_loops import slow_iou, slow_nms
from small_rcnn import K, make_batch

from models.heads.box import box_loss
from models.heads.detections import Candidates, ThinOut, best_pairs
from models.heads.proposals import Proposals
from models.heads.roi_sample import sample_rois
from models.ops.boxes import clip, decode

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
sample = functools.partial(
    sample_rois,
    num_classes=K,
    samples=16,
    positive_fraction=0.25,
    foreground_iou=0.5,
    box_weights=WEIGHTS,
)


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
    given = Proposals(jnp.asarray(proposals, jnp.float32), valid)
    found = jax.device_get(jax.jit(sample)(given, batch, jax.random.key(0)))
    assert found.max_objects == 4
    boxes = np.asarray(batch.boxes, np.float64)
    for image in range(2):
        allowed = [*proposals[image][valid[image]], *boxes[image, :2]]
        assert found.is_object[image].sum() == 4  # a quarter, as there are enough
        assert found.chosen[image].sum() == 16
        for row in range(16):
            roi = found.boxes[image, row]
            assert min(np.abs(roi - other).max() for other in allowed) < 1e-4
            overlaps = [slow_iou(roi, box) for box in boxes[image, :2]]
            if found.is_object[image, row]:
                best = int(np.argmax(overlaps))
                assert overlaps[best] >= 0.5 and found.rows[image, row] == best
                assert found.labels[image, row] == batch.classes[image, best]
                back = decode(found.targets[image, row], roi, WEIGHTS)
                np.testing.assert_allclose(back, boxes[image, best], atol=1e-3)
            else:
                assert max(overlaps) < 0.5 and found.labels[image, row] == K
                side = np.minimum(roi[2:], crowd[2:]) - np.maximum(roi[:2], crowd[:2])
                covered = np.prod(np.maximum(side, 0)) / np.prod(roi[2:] - roi[:2])
                assert covered <= 0.5


def test_the_box_loss_is_that_of_loops():
    rng = np.random.default_rng(0)
    batch = make_batch()
    proposals = jnp.tile(batch.boxes[:, :1], (1, 9, 1)) + rng.normal(0, 8, (2, 9, 4))
    given = Proposals(proposals, jnp.ones((2, 9), bool))
    learned = sample(given, batch, jax.random.key(0))
    assert not learned.chosen.all() and learned.is_object.any()
    logits = rng.normal(0, 2, (2, 16, K + 1)).astype(np.float32)
    deltas = rng.normal(0, 1, (2, 16, K, 4)).astype(np.float32)
    found = box_loss(jnp.asarray(logits), jnp.asarray(deltas), learned, box_beta=1 / 9)
    entropy = distance = 0.0
    for index in zip(*np.nonzero(learned.chosen), strict=True):
        label = int(learned.labels[index])
        entropy += np.log(np.exp(logits[index]).sum()) - logits[index][label]
        if label < K:
            d = np.abs(deltas[index][label] - learned.targets[index])
            distance += np.where(d < 1 / 9, 4.5 * d**2, d - 1 / 18).sum()
    count = int(learned.chosen.sum())
    np.testing.assert_allclose(found["classification"], entropy / count, rtol=1e-5)
    np.testing.assert_allclose(found["box"], distance / count, rtol=1e-5)


def make_thin_out(**changes):
    settings = {
        "score_threshold": 0.2,
        "nms_threshold": 0.3,
        "soft_nms": "",
        "soft_nms_sigma": 0.5,
        "max_detections": 12,
        "min_side": 0.01,
    }
    return ThinOut("model.box_head", **settings | changes)


def thin_out_one(candidates, **changes):
    """The detections of one image."""
    batch = jax.tree.map(lambda leaf: leaf[None], candidates)
    found = jax.jit(make_thin_out(**changes))(batch)
    return jax.tree.map(lambda leaf: leaf[0], found)


def test_detections_are_those_of_sorting_and_loops():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 50, (30, 2))
    proposals = np.concatenate([corner, corner + rng.uniform(4, 40, (30, 2))], -1)
    logits = rng.normal(0, 1.5, (30, K + 1)).astype(np.float32)
    deltas = rng.normal(0, 1, (30, K, 4)).astype(np.float32)
    valid = rng.random(30) < 0.8
    size = jnp.array([60, 80])
    given = Proposals(jnp.asarray(proposals), valid)
    chosen = best_pairs(
        logits, deltas, given, size, box_weights=WEIGHTS, pre_nms_top_k=90
    )
    found = thin_out_one(chosen)
    candidates = []
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for row in np.flatnonzero(valid):
        for label in range(K):
            if probability[row, label] > 0.2:
                box = decode(jnp.asarray(deltas[row, label]), proposals[row], WEIGHTS)
                box = np.asarray(clip(box[None], size)[0])
                candidates.append((box, probability[row, label], label))
    expected = slow_nms(candidates, 0.3, 12)
    assert 0 < len(expected) <= found.valid.sum() < len(candidates)
    sides, best, labels = zip(*expected, strict=True)
    np.testing.assert_array_equal(found.classes[: len(expected)], labels)
    np.testing.assert_allclose(found.scores[: len(expected)], best, rtol=1e-5)
    np.testing.assert_allclose(found.boxes[: len(expected)], sides, atol=1e-3)
    assert found.valid.sum() == len(expected)


def test_soft_nms_keeps_more_and_lowers_their_scores():
    boxes = jnp.array([[0, 0, 10, 10], [0, 2, 10, 12], [0, 9, 10, 19]], jnp.float32)
    given = Candidates(boxes, jnp.array([0.9, 0.8, 0.7]), jnp.zeros(3, jnp.int32))
    assert thin_out_one(given).scores[:3].tolist() == pytest.approx([0.9, 0.7, 0])
    for method, second, third in (
        ("linear", 1 - 2 / 3, 1),  # the third's IoU of 1 / 19 does not reach 0.3
        ("gaussian", np.exp(-2 * (2 / 3) ** 2 - 2 * (3 / 17) ** 2), np.exp(-2 / 361)),
    ):
        found = thin_out_one(given, soft_nms=method)
        np.testing.assert_allclose(
            found.scores[:3], [0.9, 0.7 * third, 0.8 * second], rtol=1e-5
        )
        np.testing.assert_array_equal(found.boxes[:3], boxes[jnp.array([0, 2, 1])])
        assert found.valid.sum() == 3 and (found.classes[3:] == -1).all()
    found = thin_out_one(given, soft_nms="linear", score_threshold=0.3)
    assert found.valid.sum() == 2  # 0.8 / 3 does not exceed it


def test_what_is_no_way_to_thin_out_is_refused():
    with pytest.raises(ValueError, match="model.box_head.soft_nms is 'soft'.*linear"):
        make_thin_out(soft_nms="soft")
    with pytest.raises(ValueError, match="model.box_head.soft_nms_sigma is 0.0"):
        make_thin_out(soft_nms_sigma=0.0)
