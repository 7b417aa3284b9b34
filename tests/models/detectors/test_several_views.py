"""Detectors that look at images mirrored and at several sizes, and merge what they see.

tests/models/test_views.py is about the views themselves.
"""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from box_loops import slow_nms
from small_rcnn import BOX_HEAD, HEIGHT, IMAGES, WIDTH, make_batch, make_parts

from models.detectors.rcnn import RCNN
from models.functional import make_detector
from models.heads.semantic import SemanticHead
from models.looks import TestConfig
from models.views import View

QUICKLY = {"xla_backend_optimization_level": 0}  # what takes longest is compiling
BOTH = TestConfig(flip=True)
TWO_SIZES = TestConfig(img_ratios=(1.0, 2.0))


def construct(rngs, test_cfg, semantic=False, **changes):
    parts = make_parts(rngs, masks=True, **changes)
    if semantic:
        parts["semantic_head"] = SemanticHead(
            8, 3, channels=8, norm_groups=2, label_scale=1, rngs=rngs
        )
    return RCNN(**parts, **IMAGES, test_cfg=test_cfg)


def make(test_cfg, **changes):
    return make_detector(functools.partial(construct, test_cfg=test_cfg, **changes))


@pytest.fixture(scope="module")
def weights():
    shapes = jax.eval_shape(make(BOTH).init, jax.random.key(0))
    rng = np.random.default_rng(0)

    def fill(leaf):
        spread = np.sqrt(2 / max(np.prod(leaf.shape[:-1]), 1)) * (leaf.ndim > 1)
        return jnp.asarray(rng.normal(0, spread, leaf.shape), leaf.dtype)

    params, model_state = jax.tree.map(fill, shapes)
    params["box_head"]["class_logits"]["kernel"] *= 2
    return params, model_state


def mirror(batch):
    """Every image mirrored within its own borders."""
    image = np.array(batch.image)
    for row, (height, width) in enumerate(batch.image_size.tolist()):
        image[row, :height, :width] = image[row, :height, :width][:, ::-1]
    return dataclasses.replace(batch, image=jnp.asarray(image))


@pytest.mark.slow  # a detector twice in one program
def test_a_mirrored_image_has_mirrored_objects(weights):
    """What no network has by itself: the two views change places, and nothing else."""
    batch = make_batch()
    predict = jax.jit(make(BOTH).predict, compiler_options=QUICKLY)
    found, other = (predict(*weights, each) for each in (batch, mirror(batch)))
    assert found.valid.sum() > 6
    np.testing.assert_array_equal(found.valid, other.valid)
    np.testing.assert_allclose(found.scores, other.scores, atol=1e-5)
    for row, width in enumerate(batch.image_size[:, 1].tolist()):
        count = int(found.valid[row].sum())
        x1, y1, x2, y2 = found.boxes[row, :count].T
        expected = np.stack([width - x2, y1, width - x1, y2], axis=1)
        np.testing.assert_allclose(other.boxes[row, :count], expected, atol=1e-2)
        masks = found.masks[row, :count]
        assert np.abs(masks - 0.5).max() > 0.2
        np.testing.assert_allclose(
            other.masks[row, :count], masks[..., ::-1], atol=1e-3
        )


@pytest.mark.slow  # a detector twice in one program
def test_boxes_of_two_sizes_are_merged_and_masks_are_their_mean(weights):
    batch = make_batch()
    detector = make(TWO_SIZES)

    def run(params, model_state, batch):
        """What the detector gives, and each of its views by itself."""
        module = detector.bind(params, model_state)
        found, sizes, each = module.predict(batch), batch.image_size, []
        for ratio in (1, 2):
            # Of whole images: the scale of both axes is the ratio itself.
            image = View(ratio).of(batch).image
            seen = dataclasses.replace(batch, image=image, image_size=ratio * sizes)
            features = module.features(seen, train=False)
            proposals = module.rpn.propose(features)
            candidates = module.box_head.candidates(features, proposals)
            boxes = dataclasses.replace(found, boxes=ratio * found.boxes)
            masks = module.mask_head.predict(features, boxes)
            each.append((candidates._replace(boxes=candidates.boxes / ratio), masks))
        return found, each

    run = jax.jit(run, compiler_options=QUICKLY)
    found, ((first, masks), (second, others)) = jax.device_get(run(*weights, batch))
    np.testing.assert_allclose(found.masks, (masks + others) / 2, atol=1e-4)
    assert np.abs(masks - others)[found.valid].max() > 0.05
    from_second = 0
    for row in range(2):
        candidates = [
            (box, score, label)
            for part in (first, second)
            for box, score, label in zip(*(each[row] for each in part), strict=True)
            if score > BOX_HEAD["score_threshold"] and (box[2:] - box[:2] >= 0.01).all()
        ]
        expected = slow_nms(candidates, BOX_HEAD["nms_threshold"], 12)
        count = len(expected)
        assert found.valid[row].sum() == count > 2
        boxes, scores, labels = zip(*expected, strict=True)
        np.testing.assert_array_equal(found.classes[row, :count], labels)
        np.testing.assert_allclose(found.scores[row, :count], scores, rtol=1e-4)
        np.testing.assert_allclose(found.boxes[row, :count], boxes, atol=1e-2)
        from_second += np.isin(np.float32(scores), second.scores[row]).sum()
    assert 0 < from_second < found.valid.sum()


def test_every_head_is_there_for_several_views():
    settings = {"soft_nms": "linear", "max_detections": 40}
    looks = TestConfig(flip=True, img_ratios=(0.5, 1.5))
    detector = make(looks, semantic=True, box=settings)
    shapes = jax.eval_shape(detector.init, jax.random.key(0))
    found = jax.eval_shape(detector.predict, *shapes, make_batch())
    chex.assert_shape(found.boxes, (2, 40, 4))
    chex.assert_shape(found.masks, (2, 40, 8, 8))
    chex.assert_shape(found.semantic, (2, HEIGHT, WIDTH))
