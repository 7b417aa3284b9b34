"""What Mask R-CNN adds to Faster R-CNN, on a backbone of four layers."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_rcnn import SETTINGS, FourLayers, K, make_batch

from models.detectors.mask_rcnn import MaskRCNN
from models.fpn import FPN
from models.functional import make_detector
from models.heads.box import BoxHead, RoiSample
from models.heads.mask import (
    MaskHead,
    mask_sample,
    mask_surprise,
    sampled_mask_targets,
)
from models.heads.rpn import RPNHead

SIDE = 6  # of the annotations' masks
MASK = 8  # cells of a predicted mask along each side


def construct(rngs):
    backbone = FourLayers(jnp.float32, rngs)
    fpn = FPN(backbone.channels, 8, first_level=2, extra="max_pool", rngs=rngs)
    rpn = RPNHead(8, num_anchors=2, rngs=rngs)
    box_head = BoxHead(8, K, roi_size=3, width=16, rngs=rngs)
    mask_head = MaskHead(8, K, num_convs=2, roi_size=MASK // 2, rngs=rngs)
    return MaskRCNN(backbone, fpn, rpn, box_head, mask_head, **SETTINGS)


@pytest.fixture(scope="module")
def detector():
    return make_detector(construct)


@pytest.fixture(scope="module")
def weights(detector):
    params, model_state = detector.init(jax.random.key(0))
    params["box_head"]["class_logits"]["kernel"] *= 50
    return params, model_state


def with_masks(boxes=((10, 10, 40, 50), (50, 5, 80, 30)), fill=None):
    batch = make_batch(boxes)
    shape = (2, 3, SIDE, SIDE)
    masks = np.random.default_rng(0).random(shape) < 0.6
    masks = masks if fill is None else np.full(shape, fill)
    return dataclasses.replace(batch, masks=jnp.asarray(masks, jnp.uint8))


@pytest.fixture(scope="module")
def step(detector, weights):
    run = jax.jit(jax.value_and_grad(detector.loss, has_aux=True))

    def evaluate(batch):
        (loss, (_, parts)), gradient = run(*weights, batch, jax.random.key(0))
        return loss, parts, gradient

    return evaluate


def test_its_parameters_are_the_papers_five_modules(weights):
    assert set(weights[0]) == {"backbone", "fpn", "rpn", "box_head", "mask_head"}


def test_the_mask_is_one_more_part_of_the_loss_and_reaches_its_head(step):
    loss, parts, gradient = step(with_masks())
    assert set(parts) == {"objectness", "rpn_box", "classification", "box", "mask"}
    np.testing.assert_allclose(loss, sum(parts.values()), rtol=1e-6)
    assert parts["mask"] > 0
    chex.assert_tree_all_finite(gradient)
    for leaf in jax.tree.leaves(gradient["mask_head"]):
        assert leaf.any()


@pytest.mark.parametrize(
    "boxes",
    [(), ((5, 5, 5.25, 5.5),), ((5, 5, 5, 5),), ((500, 500, 520, 530),)],
    ids=["none", "smaller than a pixel", "without area", "outside the picture"],
)
def test_a_batch_of_poor_boxes_has_finite_loss_and_gradient(step, boxes):
    chex.assert_tree_all_finite(step(with_masks(boxes)))


def test_the_mask_loss_is_that_of_all_objects_at_once(detector, weights, step):
    batch = with_masks()

    @jax.jit
    def whole(params, model_state):
        module = detector.bind(params, model_state)
        _, features, sample = module.region_losses(batch, jax.random.key(0))
        logits = module.mask_outputs(features, sample.boxes, sample.labels)
        targets = sampled_mask_targets(sample, batch, MASK)
        total = mask_surprise(logits, targets, sample.is_object)
        return total / sample.is_object.sum()

    np.testing.assert_allclose(step(batch)[1]["mask"], whole(*weights), rtol=1e-5)


def test_no_boxes_in_any_image_leave_no_mask_loss(step):
    _, parts, gradient = step(with_masks(()))
    assert parts["mask"] == 0
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient["mask_head"]))


def test_masks_that_resizing_has_emptied_are_learned_as_empty(step):
    _, parts, gradient = step(with_masks(fill=0))
    assert parts["mask"] > 0
    chex.assert_tree_all_finite(gradient)
    # More background pixels push every logit down.
    assert (gradient["mask_head"]["logits"]["bias"] >= 0).all()


def test_a_batch_without_masks_is_refused(step):
    with pytest.raises(ValueError, match="set data.mask_size"):
        step(make_batch())


def test_predictions_have_a_mask_for_every_detection(detector, weights):
    found = jax.jit(detector.predict)(*weights, make_batch())
    chex.assert_shape(found.masks, (2, SETTINGS["max_detections"], MASK, MASK))
    chex.assert_type(found.masks, jnp.float32)
    assert found.valid.any()
    assert ((found.masks >= 0) & (found.masks <= 1)).all()


def slow_head(head, pooled, label):
    """The mask of one box (P, P, C), pixel by pixel, all classes computed."""
    x = np.asarray(pooled, np.float64)
    side = len(x)
    for conv in head.convs:
        kernel = np.asarray(conv.kernel[...], np.float64)
        padded = np.pad(x, [(1, 1), (1, 1), (0, 0)])
        y = np.zeros((side, side, kernel.shape[-1]))
        for i, j in np.ndindex(side, side):
            window = padded[i : i + 3, j : j + 3]
            y[i, j] = np.einsum("abc,abcd->d", window, kernel)
        x = np.maximum(y + np.asarray(conv.bias[...]), 0)
    kernel = np.asarray(head.upsample.kernel[...], np.float64)
    y = np.zeros((2 * side, 2 * side, kernel.shape[-1]))
    for i, j in np.ndindex(2 * side, 2 * side):
        y[i, j] = x[i // 2, j // 2] @ kernel[i % 2, j % 2]
    x = np.maximum(y + np.asarray(head.upsample.bias[...]), 0)
    last = np.asarray(head.logits.kernel[0, 0], np.float64)
    return (x @ last + np.asarray(head.logits.bias[...]))[..., label]


def test_the_head_gives_the_mask_of_the_class_that_it_is_asked_for():
    head = MaskHead(4, K, num_convs=2, roi_size=3, rngs=nnx.Rngs(0))
    head.logits.bias[...] = jnp.arange(K, dtype=jnp.float32)
    head.upsample.bias[...] = jnp.linspace(-1, 1, 4)
    pooled = np.random.default_rng(0).normal(size=(2, 3, 3, 3, 4)).astype(np.float32)
    classes = np.array([[0, 2, 1], [2, K, -1]])
    found = head(jnp.asarray(pooled), jnp.asarray(classes))
    chex.assert_shape(found, (2, 3, 6, 6))
    for place, label in np.ndenumerate(classes):
        expected = 0 if label in (-1, K) else slow_head(head, pooled[place], label)
        np.testing.assert_allclose(found[place], expected, rtol=2e-5, atol=1e-5)


def make_sample():
    """Four rows, of which the first two are objects, of annotations 1 and 0."""
    boxes = [(48, 4, 82, 33), (8, 12, 44, 48), (0, 0, 9, 9), (0, 0, 1, 1)]
    objects = [True, True, False, False]
    two = lambda values, dtype: jnp.tile(  # noqa: E731
        jnp.asarray(values, dtype)[None], (2,) + (1,) * np.ndim(values)
    )
    return RoiSample(
        boxes=two(boxes, jnp.float32),
        labels=two([1, 2, K, K], jnp.int32),
        targets=jnp.zeros((2, 4, 4)),
        rows=two([1, 0, 0, 0], jnp.int32),
        chosen=two([True, True, True, False], bool),
        is_object=two(objects, bool),
    )


def test_targets_follow_the_annotation_that_a_proposal_belongs_to():
    batch, sample = with_masks(), make_sample()
    boxes = batch.boxes[:, jnp.array([1, 0, 0, 0])]
    same = sample._replace(boxes=boxes)
    found = sampled_mask_targets(same, batch, SIDE)
    expected = batch.masks[:, jnp.array([1, 0])]
    np.testing.assert_allclose(found[:, :2], expected, atol=1e-4)


def test_only_rows_that_may_be_objects_go_to_the_head():
    sample = make_sample()
    many = RoiSample(*(jnp.repeat(field, 4, axis=1) for field in sample))
    front = mask_sample(many)
    chex.assert_shape(front.boxes, (2, 4, 4))
    np.testing.assert_array_equal(front.boxes, many.boxes[:, :4])


def test_the_surprise_is_the_mean_over_the_cells_of_each_object():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (2, 4, 5, 5))
    targets = rng.random((2, 4, 5, 5))
    counted = np.array([[True, True, False, False], [True, False, False, False]])
    p = 1 / (1 + np.exp(-logits))
    entropy = -(targets * np.log(p) + (1 - targets) * np.log(1 - p))
    found = mask_surprise(*map(jnp.asarray, (logits, targets, counted)))
    expected = entropy[counted].mean(axis=(1, 2)).sum()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_head_without_classes_or_layers_is_refused():
    for classes, convs in ((0, 4), (3, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            MaskHead(4, classes, num_convs=convs, rngs=nnx.Rngs(0))
