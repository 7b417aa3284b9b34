"""Semantic FPN on a backbone of four layers: losses, windows, mirrored images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from agvm_jax.structures import Batch
from models.detectors.semantic_fpn import SemanticFPN, window_starts
from models.fpn import FPN
from models.functional import make_detector
from models.heads.semantic import SemanticHead
from models.layers import Conv
from models.looks import TestConfig
from models.ops.images import normalize_images
from models.views import View

CLASSES = 3
SIZE = (48, 64)
IMAGE_SIZES = ((48, 64), (30, 41))


class FourLayers(nnx.Module):
    """C2 to C5 by one strided convolution each."""

    channels = {"c2": 4, "c3": 4, "c4": 4, "c5": 4}

    def __init__(self, rngs):
        strides = (4, 2, 2, 2)
        inputs = (3, 4, 4, 4)
        self.layers = nnx.List(
            Conv(n, 4, 3, stride=s, rngs=rngs)
            for n, s in zip(inputs, strides, strict=True)
        )

    def __call__(self, x, *, train, key=None):
        del train, key
        outputs = {}
        for name, layer in zip(self.channels, self.layers, strict=True):
            outputs[name] = x = jax.nn.relu(layer(x))
        return outputs


def construct(rngs, **test_cfg):
    backbone = FourLayers(rngs)
    fpn = FPN(backbone.channels, 8, first_level=2, extra="max_pool", rngs=rngs)
    head = SemanticHead(8, CLASSES, channels=8, norm_groups=2, rngs=rngs)
    return SemanticFPN(backbone, fpn, head, test_cfg=TestConfig(**test_cfg))


def make_batch(labels=1):
    rng = np.random.default_rng(0)
    image = np.zeros((2, *SIZE, 3), np.uint8)
    for row, (height, width) in enumerate(IMAGE_SIZES):
        image[row, :height, :width] = rng.integers(0, 256, (height, width, 3))
    return Batch(
        jnp.asarray(image),
        jnp.array(IMAGE_SIZES, jnp.int32),
        jnp.arange(2),
        *[None] * 4,
        semantic=jnp.full((2, SIZE[0] // 4, SIZE[1] // 4), labels, jnp.int32),
    )


@pytest.fixture(scope="module")
def weights():
    params, state = make_detector(construct).init(jax.random.key(0))
    params["semantic_head"]["logits"]["kernel"] *= 100
    return params, state


def test_its_parameters_are_the_papers_three_modules(weights):
    assert set(weights[0]) == {"backbone", "fpn", "semantic_head"}


def test_the_loss_reaches_every_parameter(weights):
    run = jax.jit(jax.value_and_grad(make_detector(construct).loss, has_aux=True))
    (loss, (_, parts)), gradient = run(*weights, make_batch(), jax.random.key(0))
    assert list(parts) == ["semantic"] and loss == parts["semantic"] > 0
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all() and np.any(leaf)


def logits(weights, **test_cfg):
    """Logits as a test config asks for them, and a function for those of images."""
    bound = make_detector(lambda rngs: construct(rngs, **test_cfg)).bind(*weights)
    graph, state = nnx.split(bound)

    @jax.jit
    def run(state, batch):
        return nnx.merge(graph, state).logits(batch)

    @jax.jit
    def plain_logits(images):
        whole = jnp.array([images.shape[1:3]] * len(images))
        return bound._logits_of(images, whole)

    def plain(images):
        return np.asarray(plain_logits(jnp.asarray(images)))

    return np.asarray(run(state, make_batch())), plain


def normalized(batch=None):
    batch = batch or make_batch()
    detector = construct(nnx.Rngs(0))
    statistics = detector.image_mean, detector.image_std
    return np.asarray(normalize_images(batch.image, batch.image_size, *statistics))


def test_a_mirrored_images_logits_are_added(weights):
    found, plain = logits(weights, flip=True)
    images = normalized()
    expected = plain(images) + plain(images[:, :, ::-1])[:, :, ::-1]
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.slow  # three compilations
def test_the_logits_of_other_sizes_are_added_at_the_same_places(weights):
    found, plain = logits(weights, img_ratios=(1.0, 2.0))
    view, batch = View(2.0), make_batch()
    larger = plain(normalized(view.of(batch)))
    there = view.cells_back(larger, batch.image_size, (12, 16), 4)
    np.testing.assert_allclose(found, plain(normalized(batch)) + there, atol=1e-4)


def test_windows_are_averaged_where_they_overlap_and_end_at_the_border(weights):
    found, plain = logits(weights, mode="slide", crop_size=(32, 32), stride=(20, 24))
    # Of 48 x 64 pixels: down 0 and 16, to the right 0, 24 and 32; of 30 x 41 pixels
    # one row, and at 0 and, to whole cells, 12.
    places = [[(y, x) for y in (0, 16) for x in (0, 24, 32)], [(0, 0), (0, 12)]]
    for row, (image, own) in enumerate(zip(normalized(), places, strict=True)):
        sums = np.zeros((12, 16, CLASSES + 1))
        for y, x in own:
            seen = plain(image[None, y : y + 32, x : x + 32])[0]
            part = sums[y // 4 : y // 4 + 8, x // 4 : x // 4 + 8]
            part[..., :-1] += seen
            part[..., -1] += 1
        expected = sums[..., :-1] / np.maximum(sums[..., -1:], 1)
        np.testing.assert_allclose(found[row], expected, atol=1e-4)


def test_a_window_as_large_as_the_input_is_the_whole(weights):
    found, plain = logits(weights, mode="slide", crop_size=(512, 512))
    np.testing.assert_allclose(found, plain(normalized()), atol=1e-4)


def test_windows_cover_images_of_every_size():
    sizes = np.arange(1, 129)
    starts, needed = window_starts(jnp.asarray(sizes), 128, 48, 20)
    for size, row, own in zip(
        sizes, np.asarray(starts), np.asarray(needed), strict=True
    ):
        covered = np.zeros(128, bool)
        for start in row[own]:
            covered[start : start + 48] = True
        assert covered[:size].all() and not row[own][1:].size > max(0, size - 29) // 20
        assert len(set(row[own])) == own.sum() and (row + 48 <= 128).all()


def test_a_class_for_each_pixel_and_no_boxes(weights):
    detector = make_detector(construct)
    found = jax.eval_shape(detector.predict, *weights, make_batch())
    assert found.semantic.shape == (2, *SIZE) and found.semantic.dtype == jnp.int8
    assert found.boxes is None and found.masks is None


def test_settings_that_cannot_be_used_are_refused(weights):
    for settings, message in (
        ({"mode": "windows"}, "choose one of whole, slide"),
        ({"crop_size": (510, 512)}, "crop_size=.510, 512. must be two positive mult"),
        ({"stride": (0, 4)}, "stride=.0, 4. must be two positive multiples of 4"),
        ({"stride": (516, 4)}, "leaves pixels between windows"),
    ):
        with pytest.raises(ValueError, match=message):
            TestConfig(**settings)
    batch = make_batch()
    odd = Batch(batch.image[:, :, :62], batch.image_size, *[None] * 5)
    detector = construct(nnx.Rngs(0), flip=True)
    with pytest.raises(ValueError, match="sides are multiples of 4"):
        jax.eval_shape(lambda: detector.logits(odd))
