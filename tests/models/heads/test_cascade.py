"""The cascade of box heads: what each stage learns from, its loss, its detections."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from box_loops import slow_iou, slow_nms
from flax import nnx
from small_rcnn import CHANNELS, IMAGES, K, make_batch_with_masks, make_parts

from models.detectors.rcnn import RCNN
from models.features import Features
from models.functional import make_detector
from models.heads.box import box_loss
from models.heads.cascade import CascadeHead, relabel
from models.heads.proposals import Proposals
from models.heads.roi_sample import RoiSample, sample_rois
from models.ops.boxes import clip, decode

SETTINGS = {
    "roi_size": 2,
    "width": 16,
    "samples": 16,
    "score_threshold": 0.1,
    "nms_threshold": 0.3,
    "pre_nms_top_k": 60,
    "max_detections": 12,
}
STAGES = ((10, 10, 5, 5), (20, 20, 10, 10), (30.303, 30.303, 14.925, 14.925))


def make_head(rngs, **changes):
    return CascadeHead(CHANNELS, K, **SETTINGS | changes, rngs=rngs)


@dataclasses.dataclass(frozen=True)
class Waves(Features):
    """Features that tell boxes apart, in place of those of a pyramid."""

    def pool(self, boxes, size, valid=None):
        del valid
        waves = jnp.sin(boxes[..., None] * jnp.arange(1, 1 + size * size * 2) / 9)
        return waves.reshape(*boxes.shape[:2], size, size, CHANNELS)


def make_features(batch):
    return Waves(levels=[], image_size=batch.image_size, strides=())


def make_proposals(batch):
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 50, (2, 30, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(4, 40, (2, 30, 2))], -1)
    boxes[:, :8] = batch.boxes[:, :1] + rng.normal(0, 4, (2, 8, 4))
    return Proposals(
        jnp.asarray(boxes, jnp.float32), jnp.asarray(rng.random((2, 30)) < 0.8)
    )


@pytest.fixture(scope="module")
def head():
    head = make_head(nnx.Rngs(0))
    for stage in head.stages:  # untrained ones say next to nothing
        stage.class_logits.kernel[...] *= 50
        stage.box_deltas.kernel[...] *= 300
    return head


def test_a_stage_learns_from_the_boxes_it_is_handed_by_its_own_iou():
    rng = np.random.default_rng(0)
    batch = make_batch_with_masks()
    crowd = (30.0, 30.0, 90.0, 60.0)
    batch = dataclasses.replace(
        batch,
        boxes=batch.boxes.at[:, 2].set(jnp.array(crowd)),
        valid=batch.valid.at[:, 2].set(True),
        crowd=batch.crowd.at[:, 2].set(True),
    )
    near = batch.boxes[:, None, :2] + rng.normal(0, 3, (2, 12, 2, 4))
    boxes = np.concatenate([near.reshape(2, 24, 4), make_proposals(batch).boxes], 1)
    boxes[:, 5, 2] = boxes[:, 5, 0]  # lost its area
    boxes = boxes.astype(np.float32)
    count = boxes.shape[1]
    chosen = rng.random((2, count)) < 0.8
    nothing = jnp.zeros((2, count))
    before = RoiSample(
        boxes=jnp.zeros((2, count, 4)),
        labels=nothing,
        targets=nothing,
        rows=nothing,
        chosen=jnp.asarray(chosen),
        is_object=nothing,
        max_objects=4,
    )
    for iou in (0.6, 0.8):
        settings = {"num_classes": K, "box_weights": STAGES[1], "min_side": 0.01}
        found = relabel(
            before, jnp.asarray(boxes), batch, foreground_iou=iou, **settings
        )
        found, truth = jax.device_get((found, batch))
        objects = 0
        for image, row in np.ndindex(2, count):
            box, place = boxes[image, row], (image, row)
            overlaps = [slow_iou(box, other) for other in truth.boxes[image, :2]]
            side = np.minimum(box[2:], crowd[2:]) - np.maximum(box[:2], crowd[:2])
            area = np.prod(box[2:] - box[:2])
            in_crowd = np.prod(np.maximum(side, 0)) > 0.5 * area
            is_object = chosen[place] and max(overlaps) >= iou
            assert found.is_object[place] == is_object
            assert found.chosen[place] == (
                chosen[place] and area > 0 and (is_object or not in_crowd)
            )
            if is_object:
                best = int(np.argmax(overlaps))
                assert found.labels[place] == truth.classes[image, best]
                assert found.rows[place] == best
                back = decode(found.targets[place], box, STAGES[1])
                np.testing.assert_allclose(back, truth.boxes[image, best], atol=1e-3)
                objects += 1
            else:
                assert found.labels[place] == K
        assert 3 < objects < count


def test_the_loss_is_that_of_the_stages_one_after_the_other(head):
    batch, key = make_batch_with_masks(), jax.random.key(1)
    features, proposals = make_features(batch), make_proposals(batch)
    parts, first = head.loss(features, proposals, batch, key)
    sampled = functools.partial(
        sample_rois, num_classes=K, samples=16, positive_fraction=0.25
    )
    expected = sampled(proposals, batch, key, foreground_iou=0.5, box_weights=STAGES[0])
    chex.assert_trees_all_close(first, expected, rtol=1e-5)
    sample = first
    weights = (1.0, 0.5, 0.25)
    for index, stage in enumerate(head.stages):
        logits, deltas = stage(features.pool(sample.boxes, 2))
        for name, value in box_loss(logits, deltas, sample, box_beta=1.0).items():
            found = parts[f"{name}_{index + 1}"]
            np.testing.assert_allclose(found, weights[index] * value, rtol=1e-4)
        if index < 2:
            boxes = decode(deltas[:, :, 0], sample.boxes, STAGES[index])
            boxes = jax.vmap(clip)(boxes, batch.image_size)
            sample = relabel(
                sample,
                boxes,
                batch,
                num_classes=K,
                foreground_iou=(0.6, 0.7)[index],
                box_weights=STAGES[index + 1],
                min_side=0.01,
            )
    assert len(parts) == 6


def test_detections_have_the_last_boxes_and_the_mean_score(head):
    batch = make_batch_with_masks()
    features, proposals = make_features(batch), make_proposals(batch)
    found = head.thin_out(head.candidates(features, proposals))
    boxes, scores = proposals.boxes, []
    for stage, weights in zip(head.stages, STAGES, strict=True):
        logits, deltas = stage(features.pool(boxes, 2))
        scores.append(jax.nn.softmax(logits)[..., :K])
        boxes = jax.vmap(clip)(
            decode(deltas[:, :, 0], boxes, weights), batch.image_size
        )
    assert np.abs(boxes - proposals.boxes).max() > 5
    scores = np.mean(scores, axis=0)
    for image in range(2):
        candidates = [
            (np.asarray(boxes[image, row]), scores[image, row, label], label)
            for row in np.flatnonzero(proposals.valid[image])
            for label in range(K)
            if scores[image, row, label] > 0.1
            and (boxes[image, row, 2:] - boxes[image, row, :2] >= 0.01).all()
        ]
        expected = slow_nms(candidates, 0.3, 12)
        assert found.valid[image].sum() == len(expected) > 2
        sides, best, labels = zip(*expected, strict=True)
        count = len(expected)
        np.testing.assert_array_equal(found.classes[image, :count], labels)
        np.testing.assert_allclose(found.scores[image, :count], best, rtol=1e-4)
        np.testing.assert_allclose(found.boxes[image, :count], sides, atol=1e-2)


@pytest.mark.slow  # a whole detector and its gradient, compiled
def test_a_cascade_mask_rcnn_learns_in_every_stage():
    def construct(rngs):
        parts = make_parts(rngs, masks=True)
        return RCNN(**parts | {"box_head": make_head(rngs)}, **IMAGES)

    detector = make_detector(construct)
    params, state = detector.init(jax.random.key(0))
    assert set(params) == {"backbone", "fpn", "rpn", "box_head", "mask_head"}
    step = jax.jit(jax.value_and_grad(detector.loss, has_aux=True))
    batch = make_batch_with_masks()
    (loss, (_, parts)), slopes = step(params, state, batch, jax.random.key(1))
    np.testing.assert_allclose(loss, sum(parts.values()), rtol=1e-6)
    chex.assert_tree_all_finite(slopes)
    for path, leaf in jax.tree_util.tree_leaves_with_path(slopes["box_head"]):
        assert leaf.any(), jax.tree_util.keystr(path)
    down = jax.tree.map(lambda p, g: p - 1e-3 * g, params, slopes)
    assert step(down, state, batch, jax.random.key(1))[0][0] < loss
    found = jax.eval_shape(detector.predict, params, state, batch)
    chex.assert_shape(found.boxes, (2, 12, 4))
    chex.assert_shape(found.masks, (2, 12, 8, 8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ious": (0.5, 1.6, 0.7)}, r"cascade_head.ious\[1\] is 1.6"),
        ({"ious": (0.5, 0.6)}, "2 ious, 3 loss_weights and 3 deviations"),
        ({"samples": 0}, "cascade_head.samples is 0"),
    ],
)
def test_what_does_not_make_a_cascade_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_head(nnx.Rngs(0), **changes)
