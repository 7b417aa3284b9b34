"""Faster R-CNN as a whole, on a backbone of four layers so that it compiles quickly."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from box_loops import slow_nms
from small_rcnn import (
    ANCHORS,
    BOX_HEAD,
    IMAGES,
    POOR_BOXES,
    RPN,
    make_batch,
    make_parts,
)

from models.detectors.rcnn import RCNN
from models.functional import make_detector
from models.ops.boxes import clip, decode


def construct(rngs, **changes):
    return RCNN(**make_parts(rngs, **changes), **IMAGES)


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


@pytest.mark.parametrize("boxes", POOR_BOXES.values(), ids=POOR_BOXES)
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


def test_proposals_are_those_of_sorting_and_loops(detector, weights):
    batch = make_batch()

    @jax.jit
    def run(params, model_state, batch):
        module = detector.bind(params, model_state)
        features = module.features(batch, train=False)
        return module.rpn.outputs(features), module.rpn.propose(features)

    (logits, deltas, anchors), (boxes, valid) = run(*weights, batch)
    most, kept = RPN["pre_nms_top_k"][1], RPN["post_nms_top_k"][1]
    # P6 has two columns, 64 pixels apart: half of 96 is what torchvision would take.
    np.testing.assert_array_equal(anchors[4][:, 0::2].mean(axis=1), [0, 0, 64, 64])
    dropped = 0
    for image in range(2):
        candidates = []
        for level, level_logits in enumerate(logits):
            scores = np.asarray(level_logits[image]).ravel()
            level_boxes = clip(
                decode(deltas[level][image].reshape(-1, 4), anchors[level]),
                batch.image_size[image],
            )
            for row in np.argsort(-scores, kind="stable")[:most]:
                box = np.asarray(level_boxes[row])
                if (box[2:] - box[:2] >= 1e-3).all():
                    candidates.append((box, float(scores[row]), level))
        expected = slow_nms(candidates, RPN["nms_threshold"], kept)
        dropped += len(candidates) - len(expected)
        assert valid[image].sum() == len(expected)
        found = boxes[image][: len(expected)]
        np.testing.assert_allclose(found, [box for box, _, _ in expected], atol=1e-3)
    assert dropped > 0


def test_predictions_keep_the_contract_and_do_not_look_at_annotations(predict):
    batch = make_batch()
    found = predict(batch)
    limit = BOX_HEAD["max_detections"]
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
        (
            {"anchors": dataclasses.replace(ANCHORS, sizes=(32.0, 64.0))},
            "model.anchors.sizes has 2 .* the levels p2, p3, p4, p5, p6",
        ),
        ({"box": {"score_threshold": 1.5}}, "model.box_head.score_threshold is 1.5"),
        ({"box": {"samples": 0}}, "model.box_head.samples is 0"),
        ({"box": {"width": 0}}, "model.box_head.width is 0"),
        ({"rpn": {"nms_threshold": -1.0}}, "model.rpn.nms_threshold is -1.0"),
        ({"rpn": {"samples": 0}}, "model.rpn.samples is 0"),
        ({"rpn": {"pre_nms_top_k": (0, 5)}}, r"rpn.pre_nms_top_k is \(0, 5\)"),
        ({"rpn": {"post_nms_top_k": (5,)}}, r"rpn.post_nms_top_k is \(5,\)"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_detector(functools.partial(construct, **changes))
