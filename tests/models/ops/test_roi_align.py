"""RoIAlign in every form equals bilinear samples taken one by one."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.ops import tpu_roi_align
from models.ops.forms import NAMES, use_forms
from models.ops.roi_align import roi_align
from models.ops.roi_sampling import assign_levels

STRIDES = (4, 8, 16)
HEIGHT, WIDTH = 233, 350  # maps of 59 x 88, 30 x 44 and 15 x 22: no multiples
BINS = 3


@pytest.fixture(params=NAMES, autouse=True)
def forms(request, monkeypatch):
    """Every test here runs for each form; the TPU's in several blocks of boxes."""
    monkeypatch.setattr(tpu_roi_align, "_CORNERS", 3000)
    with use_forms(request.param):
        yield request.param


def make_features(dtype=np.float32, batch=2):
    rng = np.random.default_rng(0)
    return [
        rng.normal(size=(batch, -(-HEIGHT // s), -(-WIDTH // s), 2)).astype(dtype)
        for s in STRIDES
    ]


def make_boxes(batch=2, count=36):
    """Of all levels, more than a chunk; some leave the picture, some have no area."""
    rng = np.random.default_rng(1)
    corner = rng.uniform(-10, 200, (batch, count, 2))
    size = np.exp(rng.uniform(0, 6, (batch, count, 2)))
    boxes = np.concatenate([corner, np.minimum(corner + size, (WIDTH, HEIGHT))], -1)
    boxes[0, 0] = 0
    boxes[0, 1] = (30, 20, 30, 20)
    boxes[0, 2] = (-60, -60, -40, -40)
    boxes[0, 3] = (5, 1, 6, 59)
    boxes[1, :5] = (0, 0, WIDTH, HEIGHT)
    return np.maximum(boxes, np.concatenate([boxes[..., :2]] * 2, -1)).astype(
        np.float32
    )


def slow_bilinear(feature, y, x):
    height, width, _ = feature.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    low_y, low_x = int(y), int(x)
    high_y, high_x = min(low_y + 1, height - 1), min(low_x + 1, width - 1)
    y, x = y - low_y, x - low_x
    top = feature[low_y, low_x] * (1 - x) + feature[low_y, high_x] * x
    bottom = feature[high_y, low_x] * (1 - x) + feature[high_y, high_x] * x
    return top * (1 - y) + bottom * y


def slow_level(box):
    side = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
    level = math.floor(4 + math.log2(side / 224) + 1e-6) if side else -100
    return min(max(level, 2), 2 + len(STRIDES) - 1) - 2


def slow_align(features, box, ratio, aligned):
    level = slow_level(box)
    x1, y1, x2, y2 = np.asarray(box, np.float64) / STRIDES[level] - 0.5 * aligned
    width, height = x2 - x1, y2 - y1
    if not aligned:
        width, height = max(width, 1), max(height, 1)
    num_y = ratio or max(math.ceil(height / BINS), 1)
    num_x = ratio or max(math.ceil(width / BINS), 1)
    out = np.zeros((BINS, BINS, features[0].shape[-1]))
    for i in range(BINS):
        for j in range(BINS):
            for a in range(num_y):
                for b in range(num_x):
                    y = y1 + (i + (a + 0.5) / num_y) * height / BINS
                    x = x1 + (j + (b + 0.5) / num_x) * width / BINS
                    out[i, j] += slow_bilinear(features[level], y, x)
    return out / (num_y * num_x)


@pytest.mark.parametrize(
    ("ratio", "aligned"), [(2, False), (2, True), (0, False), (3, True)]
)
def test_bins_are_means_of_bilinear_samples(ratio, aligned):
    features, boxes = make_features(), make_boxes()
    found = jax.jit(
        functools.partial(
            roi_align,
            strides=STRIDES,
            output_size=BINS,
            sampling_ratio=ratio,
            aligned=aligned,
        )
    )(features, boxes)
    for image in range(2):
        maps = [feature[image] for feature in features]
        for row, box in enumerate(boxes[image]):
            expected = slow_align(maps, box, ratio, aligned)
            np.testing.assert_allclose(found[image, row], expected, atol=1e-4)


def test_boxes_of_the_test_lie_on_every_level():
    levels = assign_levels(make_boxes(), STRIDES)
    assert set(np.unique(levels)) == {0, 1, 2}
    slow = [[slow_level(box) for box in image] for image in make_boxes().tolist()]
    np.testing.assert_array_equal(levels, slow)


def test_boxes_that_do_not_count_give_zeros_and_no_gradient():
    features, boxes = make_features(), make_boxes()
    valid = np.random.default_rng(4).random((2, 36)) < 0.5
    valid[1] = False

    @functools.partial(jax.jit, static_argnums=1)
    def pool(features, which):
        def total(features):
            pooled = roi_align(
                features,
                boxes,
                jnp.asarray(valid) if which else None,
                strides=STRIDES,
                output_size=BINS,
            )
            kept = jnp.where(valid[..., None, None, None], pooled, 0)
            return (pooled if which else kept).sum(), pooled

        return jax.grad(total, has_aux=True)(features)

    gradient, pooled = pool(features, True)
    expected, everything = pool(features, False)
    np.testing.assert_allclose(pooled[valid], everything[valid], atol=1e-5)
    assert not pooled[~valid].any() and everything[~valid].any()
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-4), gradient, expected
    )


def test_the_gradient_agrees_with_finite_differences():
    """The map is linear, so a difference over any step is exact but for rounding."""
    features, boxes = make_features(), make_boxes()
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(2, 36, BINS, BINS, 2)).astype(np.float32)

    @jax.jit
    def total(features):
        pooled = roi_align(features, boxes, strides=STRIDES, output_size=BINS)
        return (pooled * weights).sum()

    gradient = jax.jit(jax.grad(total))(features)
    for level in range(len(STRIDES)):
        assert jnp.abs(gradient[level]).max() > 0
        for _ in range(3):
            place = tuple(rng.integers(0, n) for n in features[level].shape)
            up = [feature.copy() for feature in features]
            down = [feature.copy() for feature in features]
            up[level][place] += 4
            down[level][place] -= 4
            slope = (total(up) - total(down)) / 8
            np.testing.assert_allclose(gradient[level][place], slope, atol=2e-3)


def test_the_derivative_along_features_is_what_they_pool_to(forms):
    """The map is linear; the form for CPUs has no forward mode."""
    if forms == "cpu":
        pytest.skip("reverse mode only")
    features, boxes = make_features(), make_boxes()
    align = functools.partial(roi_align, boxes=boxes, strides=STRIDES, output_size=BINS)
    change = [2.0 * feature + 1.0 for feature in features]
    tangent, expected = jax.jit(
        lambda features, change: (
            jax.jvp(align, (features,), (change,))[1],
            align(change),
        )
    )(features, change)
    np.testing.assert_allclose(tangent, expected, atol=1e-5)


def test_boxes_take_no_gradient():
    features = make_features()

    def total(boxes):
        return roi_align(features, boxes, strides=STRIDES, output_size=BINS).sum()

    assert not jax.jit(jax.grad(total))(make_boxes()).any()


def test_bfloat16_features_stay_bfloat16_and_near():
    features, boxes = make_features(), make_boxes()
    align = jax.jit(functools.partial(roi_align, strides=STRIDES, output_size=BINS))
    half = align([jnp.asarray(feature, jnp.bfloat16) for feature in features], boxes)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        half.astype(jnp.float32), align(features, boxes), atol=0.05
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strides": (4, 8)}, "3 levels with strides"),
        ({"strides": (4, 8, 32)}, "each twice the one before"),
        ({"output_size": 0}, "output_size 0"),
        ({"sampling_ratio": -1}, "sampling_ratio -1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        roi_align(
            make_features(),
            jnp.asarray(make_boxes()),
            **({"strides": STRIDES, "output_size": BINS} | changes),
        )
