"""The mask head: its outputs, targets and loss beside loops."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_rcnn import K, make_batch_with_masks

from models.heads.mask import MaskHead, mask_cross_entropy, sampled_mask_targets
from models.heads.roi_sample import RoiSample

SIDE = 6  # of the annotations' masks


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
        max_objects=2,
    )


def test_targets_follow_the_annotation_that_a_proposal_belongs_to():
    batch, sample = make_batch_with_masks(), make_sample()
    boxes = batch.boxes[:, jnp.array([1, 0, 0, 0])]
    same = dataclasses.replace(sample, boxes=boxes)
    found = sampled_mask_targets(same, batch, SIDE)
    expected = batch.masks[:, jnp.array([1, 0])]
    np.testing.assert_allclose(found[:, :2], expected, atol=1e-4)


def test_only_rows_that_may_be_objects_go_to_the_head():
    sample = make_sample()
    front = jax.jit(RoiSample.objects)(sample)
    chex.assert_shape(front.boxes, (2, 2, 4))
    for name in ("boxes", "labels", "rows", "is_object"):
        np.testing.assert_array_equal(
            getattr(front, name), getattr(sample, name)[:, :2]
        )


def test_the_cross_entropy_is_the_mean_over_the_cells_of_each_object():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (2, 4, 5, 5))
    targets = rng.random((2, 4, 5, 5))
    counted = np.array([[True, True, False, False], [True, False, False, False]])
    p = 1 / (1 + np.exp(-logits))
    entropy = -(targets * np.log(p) + (1 - targets) * np.log(1 - p))
    found = mask_cross_entropy(*map(jnp.asarray, (logits, targets, counted)))
    expected = entropy[counted].mean(axis=(1, 2)).sum()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("key", ["num_convs", "roi_size", "num_classes"])
def test_a_head_without_classes_bins_or_layers_is_refused(key):
    settings = {"num_classes": 3, key: 0}
    with pytest.raises(ValueError, match=f"model.mask_head.{key} is 0"):
        MaskHead(4, **settings, rngs=nnx.Rngs(0))
