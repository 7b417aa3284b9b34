"""RetinaNet's head: order of its outputs, targets, losses, and what must not count."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from agvm_jax.structures import Batch
from models.heads.anchor_outputs import AnchorOutputs
from models.heads.retina import RetinaHead
from models.heads.retina_loss import (
    retina_loss,
    retina_targets,
)
from models.ops.anchors import Anchors
from models.ops.matching import BACKGROUND, IGNORE

K = 3
IOUS = {"foreground_iou": 0.5, "background_iou": 0.4}
# Two levels: nine anchors of 8 pixels in a row, three of 24.
FINE = np.array([[8 * i, 0, 8 * i + 8, 8] for i in range(9)], np.float32)
COARSE = np.array([[24 * i, 0, 24 * i + 24, 24] for i in range(3)], np.float32)
ANCHORS = [jnp.asarray(FINE), jnp.asarray(COARSE)]


def make_head(**changes):
    anchors = Anchors(sizes=(8.0,), ratios=(0.5, 1.0))
    return RetinaHead(4, K, anchors, **{"num_convs": 1} | changes, rngs=nnx.Rngs(0))


def make_batch(boxes, classes=None, crowd=None, image_id=None):
    """A batch with one list of boxes an image, padded to three rows."""
    rows = np.zeros((len(boxes), 3, 4), np.float32)
    valid = np.zeros((len(boxes), 3), bool)
    labels = np.zeros((len(boxes), 3), np.int32)
    for index, some in enumerate(boxes):
        for row, box in enumerate(some):
            rows[index, row], valid[index, row] = box, True
            labels[index, row] = 0 if classes is None else classes[index][row]
    count = len(boxes)
    return Batch(
        image=jnp.zeros((count, 24, 72, 3), jnp.uint8),
        image_size=jnp.tile(jnp.array([[24, 72]]), (count, 1)),
        image_id=jnp.arange(count) if image_id is None else jnp.asarray(image_id),
        boxes=jnp.asarray(rows),
        classes=jnp.asarray(labels),
        valid=jnp.asarray(valid),
        crowd=jnp.zeros((count, 3), bool) if crowd is None else jnp.asarray(crowd),
    )


def random_outputs(count, seed=0):
    rng = np.random.default_rng(seed)
    logits = [rng.normal(-1, 2, (count, len(a), K)).astype(np.float32) for a in ANCHORS]
    deltas = [rng.normal(0, 1, (count, len(a), 4)).astype(np.float32) for a in ANCHORS]
    return jax.tree.map(jnp.asarray, (logits, deltas))


@functools.partial(jax.jit, static_argnames="num_anchors")
def loss_and_gradient(logits, deltas, batch, num_anchors=3):
    def total(outputs):
        # A row of places, with `num_anchors` at each.
        maps = [
            [x.reshape(len(x), 1, x.shape[1] // num_anchors, -1) for x in levels]
            for levels in outputs
        ]
        outputs = AnchorOutputs(*maps, ANCHORS)
        focal = {"focal_alpha": 0.25, "focal_gamma": 2.0}
        parts = retina_loss(outputs, batch, **IOUS, **focal)
        return sum(parts.values()), parts

    (loss, parts), gradient = jax.value_and_grad(total, has_aux=True)((logits, deltas))
    return loss, parts, gradient


def test_outputs_run_by_row_column_anchor_class():
    """As the anchors do: the last layer's channels are (anchor, class)."""
    head = make_head(num_convs=0)
    kernel = np.zeros((3, 3, 4, 2 * K), np.float32)
    kernel[1, 1, 0] = 1.0  # every output is the first input channel
    head.class_logits.kernel[...] = jnp.asarray(kernel)
    head.class_logits.bias[...] = 0.1 * jnp.arange(2 * K)
    place = 10.0 * jnp.arange(6).reshape(1, 2, 3)
    features = jnp.zeros((1, 2, 3, 4)).at[..., 0].set(place)
    logits, deltas = head([features])
    expected = [
        [10 * place + 0.1 * (K * anchor + k) for k in range(K)]
        for place in range(6)
        for anchor in range(2)
    ]
    chex.assert_shape(logits[0], (1, 2, 3, 2 * K))
    np.testing.assert_allclose(logits[0].reshape(12, K), expected, rtol=1e-6)
    chex.assert_shape(deltas[0], (1, 2, 3, 8))


def test_the_same_towers_run_on_every_level():
    head = make_head()
    features = jax.random.normal(jax.random.key(0), (2, 4, 4, 4))
    logits, deltas = head([features, features])
    chex.assert_trees_all_equal(logits[0], logits[1])
    chex.assert_trees_all_equal(deltas[0], deltas[1])
    assert logits[0].std() > 0


def test_a_new_head_calls_everything_background():
    head = make_head(num_convs=4)
    features = jax.random.normal(jax.random.key(0), (2, 8, 8, 4))
    logits, deltas = head([features])
    np.testing.assert_allclose(jax.nn.sigmoid(logits[0]), 0.01, rtol=0.05)
    assert jnp.abs(deltas[0]).max() < 0.01


def test_targets_are_the_matched_class_and_code():
    batch = make_batch([[[8, 0, 16, 8], [16, 1, 24, 8]]], [[2, 1]])
    labels, deltas = retina_targets(
        ANCHORS[0],
        batch.boxes[0],
        batch.classes[0],
        batch.valid[0],
        batch.crowd[0],
        **IOUS,
    )
    assert labels.tolist() == [BACKGROUND, 2, 1] + [BACKGROUND] * 6
    expected = np.zeros((9, 4), np.float32)
    expected[2] = [0, 0.5 / 8, 0, np.log(7 / 8)]
    np.testing.assert_allclose(deltas, expected, atol=1e-6)


def test_background_in_a_crowd_is_ignored_and_objects_there_are_not():
    boxes = [[[8, 0, 16, 8], [0, 0, 28, 20]]]
    batch = make_batch(boxes, crowd=[[False, True, False]])
    labels, _ = retina_targets(
        ANCHORS[0],
        batch.boxes[0],
        batch.classes[0],
        batch.valid[0],
        batch.crowd[0],
        **IOUS,
    )
    # The fourth anchor lies half in the region, which is not more than half.
    assert labels.tolist() == [IGNORE, 0, IGNORE] + [BACKGROUND] * 6


def slow_retina_loss(logits, deltas, labels, targets):
    """The two parts for one image, by the formulas in float64."""
    logits, deltas = (np.asarray(x, np.float64) for x in (logits, deltas))
    probability = 1 / (1 + np.exp(-logits))
    classification = box = 0.0
    for row, label in enumerate(labels):
        if label == IGNORE:
            continue
        for k in range(K):
            p = probability[row, k]
            if k == label:
                classification -= 0.25 * (1 - p) ** 2 * np.log(p)
            else:
                classification -= 0.75 * p**2 * np.log(1 - p)
        if label >= 0:
            box += np.abs(deltas[row] - targets[row]).sum()
    found = max(1, (np.asarray(labels) >= 0).sum())
    return classification / found, box / found


@pytest.mark.parametrize("num_anchors", [1, 3])
def test_the_loss_is_the_mean_over_images_of_sums_over_matched_anchors(num_anchors):
    batch = make_batch(
        [[[8, 0, 16, 8], [16, 1, 24, 5]], [[1, 2, 60, 22]], []], [[2, 1], [0], []]
    )
    outputs = random_outputs(3)
    loss, parts, _ = loss_and_gradient(*outputs, batch, num_anchors)
    expected = np.zeros(2)
    for image in range(3):
        labels, targets = retina_targets(
            jnp.concatenate(ANCHORS),
            batch.boxes[image],
            batch.classes[image],
            batch.valid[image],
            batch.crowd[image],
            **IOUS,
        )
        joined = [np.concatenate([o[image] for o in output]) for output in outputs]
        expected += np.array(slow_retina_loss(*joined, labels, targets)) / 3
    np.testing.assert_allclose(
        [parts["classification"], parts["box"]], expected, rtol=1e-5
    )
    np.testing.assert_allclose(loss, expected.sum(), rtol=1e-5)
    assert loss.dtype == jnp.float32 and loss.shape == ()


def test_images_without_boxes_teach_background_and_nothing_about_boxes():
    batch = make_batch([[], [], []])
    loss, parts, gradient = loss_and_gradient(*random_outputs(3), batch)
    chex.assert_tree_all_finite((loss, gradient))
    assert parts["box"] == 0 and parts["classification"] > 0
    assert all((g == 0).all() for g in gradient[1])
    # Every score is pushed down.
    assert all((g > 0).all() for g in gradient[0])


@pytest.mark.parametrize("side", [0.5, 1e-3, 1e-12, 0.0])
def test_boxes_smaller_than_a_pixel_have_finite_loss_and_gradient(side):
    batch = make_batch([[[4, 4, 4 + side, 4 + side]]] * 3)
    loss, parts, gradient = loss_and_gradient(*random_outputs(3), batch)
    chex.assert_tree_all_finite((loss, parts, gradient))


def test_padding_images_count_for_nothing():
    boxes = [[[8, 0, 16, 8]], [[1, 2, 60, 22]], [[0, 0, 9, 9]]]
    logits, deltas = random_outputs(3)
    padded = make_batch(boxes, image_id=[5, -1, -1])
    loss, _, gradient = loss_and_gradient(logits, deltas, padded)
    three = make_batch([boxes[0]] * 3)
    same = jax.tree.map(lambda x: jnp.stack([x[0]] * 3), (logits, deltas))
    np.testing.assert_allclose(loss, loss_and_gradient(*same, three)[0], rtol=1e-6)
    assert all((g[1:] == 0).all() for g in jax.tree.leaves(gradient))


def test_a_batch_of_padding_alone_has_loss_zero():
    batch = make_batch([[], [], []], image_id=[-1, -1, -1])
    loss, _, gradient = loss_and_gradient(*random_outputs(3), batch)
    assert loss == 0
    assert all((g == 0).all() for g in jax.tree.leaves(gradient))


def test_ignored_anchors_take_no_gradient():
    boxes = [[[8, 0, 16, 8], [0, 0, 28, 20]]] * 3
    batch = make_batch(boxes, crowd=[[False, True, False]] * 3)
    _, _, gradient = loss_and_gradient(*random_outputs(3), batch)
    fine = gradient[0][0][0]
    assert (fine[0] == 0).all() and (fine[2] == 0).all()
    assert (fine[1] != 0).all() and (fine[3] != 0).all()


def test_the_order_of_the_annotations_does_not_matter():
    boxes = [[[8, 0, 16, 8], [16, 1, 24, 5], [1, 2, 60, 22]]] * 3
    batch = make_batch(boxes, [[2, 1, 0]] * 3)
    turned = dataclasses.replace(
        batch, boxes=batch.boxes[:, ::-1], classes=batch.classes[:, ::-1]
    )
    outputs = random_outputs(3)
    chex.assert_trees_all_close(
        loss_and_gradient(*outputs, batch),
        loss_and_gradient(*outputs, turned),
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_convs", -1), ("prior_probability", 1.0), ("foreground_iou", 2.0)],
)
def test_a_setting_out_of_range_is_named(key, value):
    with pytest.raises(ValueError, match=f"model.retina_head.{key} is {value}"):
        make_head(**{key: value})
