"""Boxes: areas, overlaps, the box code and clipping beside slow oracles."""

import chex
import jax.numpy as jnp
import numpy as np

from models.ops.boxes import areas, clip, coverage, decode, encode, iou


def slow_intersection(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0)


def random_boxes(rng, count):
    corner = rng.uniform(0, 40, (count, 2))
    size = rng.uniform(0.1, 30, (count, 2))
    return np.concatenate([corner, corner + size], axis=1).astype(np.float32)


def test_overlaps_equal_those_of_a_loop_over_pairs():
    rng = np.random.default_rng(0)
    boxes, others = random_boxes(rng, 9), random_boxes(rng, 7)
    shared = np.array(
        [
            [slow_intersection(a.astype(float), b.astype(float)) for b in others]
            for a in boxes
        ]
    )
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1, dtype=np.float64)
    area_others = np.prod(others[:, 2:] - others[:, :2], axis=1, dtype=np.float64)
    expected = shared / (area[:, None] + area_others[None] - shared)
    chex.assert_trees_all_close(np.asarray(iou(boxes, others)), expected, atol=1e-5)
    chex.assert_trees_all_close(
        np.asarray(coverage(boxes, others)), shared / area[:, None], atol=1e-5
    )


def test_overlaps_keep_leading_dimensions():
    rng = np.random.default_rng(1)
    boxes = random_boxes(rng, 12).reshape(2, 6, 4)
    others = random_boxes(rng, 6).reshape(2, 3, 4)
    both = iou(boxes, others)
    chex.assert_shape(both, (2, 6, 3))
    chex.assert_trees_all_equal(both[1], iou(boxes[1], others[1]))


def test_boxes_without_area_overlap_nothing_not_even_themselves():
    boxes = jnp.array([[3.0, 3, 3, 9], [5, 5, 2, 9], [3, 3, 3, 3]])
    others = jnp.concatenate([boxes, jnp.array([[0.0, 0, 10, 10]])])
    assert areas(boxes).tolist() == [0, 0, 0]
    assert not iou(boxes, others).any()
    assert not coverage(boxes, others).any()


def test_a_small_box_in_a_large_region_is_covered_though_its_iou_is_small():
    box, region = jnp.array([[2.0, 2, 4, 4]]), jnp.array([[0.0, 0, 100, 100]])
    assert coverage(box, region).item() == 1.0
    assert iou(box, region).item() < 0.01


def test_decoding_undoes_encoding_with_any_weights():
    rng = np.random.default_rng(2)
    boxes, anchors = random_boxes(rng, 50), random_boxes(rng, 50)
    for weights in ((1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)):
        back = decode(encode(boxes, anchors, weights), anchors, weights)
        chex.assert_trees_all_close(back, boxes, atol=1e-3)


def test_the_box_code_is_that_of_the_paper():
    anchor = jnp.array([10.0, 20, 30, 60])  # centre 20, 40; sides 20, 40
    box = jnp.array([15.0, 30, 55, 50])  # centre 35, 40; sides 40, 20
    expected = [0.75, 0.0, np.log(2.0), -np.log(2.0)]
    chex.assert_trees_all_close(encode(box, anchor), jnp.array(expected), atol=1e-6)


def test_enormous_deltas_decode_to_finite_sides():
    anchor = jnp.array([0.0, 0, 16, 16])
    box = decode(jnp.array([0.0, 0, 1e4, 1e4]), anchor)
    chex.assert_trees_all_close(box[2] - box[0], 1000.0, rtol=1e-5)


def test_bfloat16_deltas_decode_in_float32():
    anchor = jnp.array([1000.0, 1000, 1033, 1033])
    box = decode(jnp.zeros(4, jnp.bfloat16), anchor)
    assert box.dtype == jnp.float32
    chex.assert_trees_all_equal(box, anchor)


def test_clipping_takes_each_image_with_its_own_size():
    boxes = jnp.tile(jnp.array([[-5.0, -5, 50, 50]]), (2, 1, 1))
    clipped = clip(boxes, jnp.array([[10, 20], [60, 40]]))
    assert clipped[:, 0].tolist() == [[0, 0, 20, 10], [0, 0, 40, 50]]
