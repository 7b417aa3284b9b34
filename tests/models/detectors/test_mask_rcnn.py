"""What Mask R-CNN adds to Faster R-CNN, on a backbone of four layers."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_rcnn import (
    BOX_HEAD,
    IMAGES,
    MASK_HEAD,
    POOR_BOXES,
    make_batch,
    make_batch_with_masks,
    make_parts,
)

from models.detectors.rcnn import RCNN
from models.functional import make_detector
from models.heads.mask import mask_cross_entropy, sampled_mask_targets

MASK = 2 * MASK_HEAD["roi_size"]  # cells of a predicted mask along each side


def construct(rngs):
    return RCNN(**make_parts(rngs, masks=True), **IMAGES)


@pytest.fixture(scope="module")
def detector():
    return make_detector(construct)


@pytest.fixture(scope="module")
def weights(detector):
    params, model_state = detector.init(jax.random.key(0))
    params["box_head"]["class_logits"]["kernel"] *= 50
    return params, model_state


@pytest.fixture(scope="module")
def step(detector, weights):
    run = jax.jit(jax.value_and_grad(detector.loss, has_aux=True))

    def evaluate(batch):
        (loss, (_, parts)), gradient = run(*weights, batch, jax.random.key(0))
        return loss, parts, gradient

    return evaluate


def test_its_parameters_are_the_papers_five_modules(weights):
    assert set(weights[0]) == {"backbone", "fpn", "rpn", "box_head", "mask_head"}


@pytest.mark.slow  # the step takes long to compile
def test_the_mask_is_one_more_part_of_the_loss_and_reaches_its_head(step):
    loss, parts, gradient = step(make_batch_with_masks())
    assert set(parts) == {"objectness", "rpn_box", "classification", "box", "mask"}
    np.testing.assert_allclose(loss, sum(parts.values()), rtol=1e-6)
    assert parts["mask"] > 0
    chex.assert_tree_all_finite(gradient)
    for leaf in jax.tree.leaves(gradient["mask_head"]):
        assert leaf.any()


@pytest.mark.parametrize("boxes", POOR_BOXES.values(), ids=POOR_BOXES)
def test_a_batch_of_poor_boxes_has_finite_loss_and_gradient(step, boxes):
    chex.assert_tree_all_finite(step(make_batch_with_masks(boxes)))


def test_the_mask_loss_is_that_of_all_objects_at_once(detector, weights, step):
    batch = make_batch_with_masks()

    @jax.jit
    def whole(params, model_state):
        module = detector.bind(params, model_state)
        keys = jax.random.split(jax.random.key(0), 3)
        features = module.features(batch, train=True, key=keys[0])
        _, proposals = module.rpn.loss(features, batch, keys[1])
        _, sample = module.box_head.loss(features, proposals, batch, keys[2])
        pooled = features.pool(sample.boxes, MASK // 2)
        logits = module.mask_head(pooled, sample.labels)
        targets = sampled_mask_targets(sample, batch, MASK)
        total = mask_cross_entropy(logits, targets, sample.is_object)
        return total / sample.is_object.sum()

    np.testing.assert_allclose(step(batch)[1]["mask"], whole(*weights), rtol=1e-5)


def test_no_boxes_in_any_image_leave_no_mask_loss(step):
    _, parts, gradient = step(make_batch_with_masks(()))
    assert parts["mask"] == 0
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient["mask_head"]))


def test_masks_that_resizing_has_emptied_are_learned_as_empty(step):
    _, parts, gradient = step(make_batch_with_masks(fill=0))
    assert parts["mask"] > 0
    chex.assert_tree_all_finite(gradient)
    # More background pixels push every logit down.
    assert (gradient["mask_head"]["logits"]["bias"] >= 0).all()


def test_a_batch_without_masks_is_refused(step):
    with pytest.raises(ValueError, match="set data.mask_size"):
        step(make_batch())


def test_predictions_have_a_mask_for_every_detection(detector, weights):
    found = jax.jit(detector.predict)(*weights, make_batch())
    chex.assert_shape(found.masks, (2, BOX_HEAD["max_detections"], MASK, MASK))
    chex.assert_type(found.masks, jnp.float32)
    assert found.valid.any()
    assert ((found.masks >= 0) & (found.masks <= 1)).all()
