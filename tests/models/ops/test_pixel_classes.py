"""Loss and classes of pixels beside a slow loop over pixels, and their memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_bilinear import slow_bilinear

from models.ops.pixel_classes import pixel_classes, pixel_cross_entropy

CLASSES = 4


def example(factor, size, seed=0):
    """Logits and labels of two images of a size, void and strange labels among them."""
    rng = np.random.default_rng(seed)
    cells = [-(-side // factor) for side in size]
    logits = rng.normal(0, 3, (2, *cells, CLASSES)).astype(np.float32)
    labels = rng.integers(-1, CLASSES + 1, (2, *size)).astype(np.int32)
    return logits, labels


def slow_loss(logits, labels, factor):
    """The sum over pixels, and its gradient by each logit, in float64."""
    total, gradient = 0.0, np.zeros(logits.shape)
    # What each cell's value adds to each pixel, found with maps of one 1.
    height, width = logits.shape[1:3]
    shares = {}
    for i in range(height):
        for j in range(width):
            single = np.zeros((height, width, 1))
            single[i, j] = 1
            shares[i, j] = slow_bilinear(single, factor)[..., 0]
    for image, own in enumerate(logits.astype(np.float64)):
        pixels = slow_bilinear(own, factor)
        for (i, j), label in np.ndenumerate(labels[image]):
            if not 0 <= label < CLASSES:
                continue
            p = np.exp(pixels[i, j]) / np.exp(pixels[i, j]).sum()
            total -= np.log(p[label])
            slope = p - np.eye(CLASSES)[label]
            for (a, b), share in shares.items():
                gradient[image, a, b] += share[i, j] * slope
    return total, gradient


@pytest.mark.parametrize(
    ("factor", "size"), [(4, (8, 12)), (4, (7, 10)), (2, (7, 10)), (1, (3, 4))]
)
def test_loss_and_gradient_are_those_of_a_loop_over_pixels(factor, size):
    logits, labels = example(factor, size)
    total, gradient = slow_loss(logits, labels, factor)
    found, slope = jax.value_and_grad(pixel_cross_entropy)(
        jnp.asarray(logits), labels, factor
    )
    assert found == pytest.approx(total, rel=1e-5)
    assert pixel_cross_entropy(jnp.asarray(logits), labels, factor) == found
    np.testing.assert_allclose(slope, gradient, atol=2e-5)


@pytest.mark.parametrize(("factor", "size"), [(4, (7, 10)), (6, (7, 10)), (1, (3, 4))])
def test_classes_are_the_best_of_interpolated_logits(factor, size):
    logits, _ = example(factor, size, seed=1)
    found = pixel_classes(jnp.asarray(logits), size, factor)
    assert found.shape == (2, *size) and found.dtype == jnp.int8
    for image, own in enumerate(logits):
        pixels = slow_bilinear(own, factor)[: size[0], : size[1]]
        np.testing.assert_array_equal(found[image], pixels.argmax(-1))


def test_without_a_labelled_pixel_loss_and_gradient_are_zero():
    logits, labels = example(4, (8, 12))
    nowhere = np.full_like(labels, -1)
    found, slope = jax.value_and_grad(pixel_cross_entropy)(
        jnp.asarray(logits), nowhere, 4
    )
    assert found == 0 and not np.any(slope)


def test_logits_of_hundreds_give_a_finite_loss():
    logits, labels = example(4, (8, 12))
    found, slope = jax.value_and_grad(pixel_cross_entropy)(
        jnp.asarray(300 * logits), labels, 4
    )
    assert np.isfinite(found) and np.isfinite(slope).all()


def test_logits_at_the_size_of_the_input_are_never_held():
    """Of one image of 256x256 pixels and 32 classes they would be 8.4 MB.

    A program that resizes them to that holds 2.1 times as much.
    """
    logits = jax.ShapeDtypeStruct((1, 64, 64, 32), jnp.float32)
    labels = jax.ShapeDtypeStruct((1, 256, 256), jnp.int32)
    run = jax.jit(jax.value_and_grad(pixel_cross_entropy), static_argnums=2)
    program = run.lower(logits, labels, 4)
    used = program.compile().memory_analysis().temp_size_in_bytes
    assert used < 0.75 * 256 * 256 * 32 * 4


@pytest.mark.parametrize("size", [(16, 8), (13, 17), (12, 16)])
def test_sizes_that_do_not_fit_are_refused(size):
    with pytest.raises(ValueError, match="do not fit .4, 4. cells of 4x4 pixels"):
        pixel_classes(jnp.zeros((1, 4, 4, 2)), size, 4)


def test_labels_have_room_for_all_classes():
    for classes, kind in ((128, jnp.int8), (129, jnp.int16), (2**15 + 1, jnp.int32)):
        logits = jax.ShapeDtypeStruct((1, 1, 1, classes), jnp.float32)
        found = jax.eval_shape(lambda x: pixel_classes(x, (4, 3), 4), logits)
        assert found.dtype == kind
