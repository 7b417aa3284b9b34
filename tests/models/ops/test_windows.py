"""Attention in shifted windows against loops over pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.ops.windows import (
    crossings,
    effective_shift,
    from_windows,
    relative_positions,
    to_windows,
    window_attention,
)

HEADS, DEPTH = 2, 3
CHANNELS = HEADS * DEPTH


def slow_attention(qkv, table, window, shift):
    """Loop over the pixels of a padded map (H, W, 3 C), counting windows by hand.

    A pixel looks at those of its own window. Windows are cut from a torus, `shift`
    pixels off its origin, and nobody looks over the seam.
    """
    height, width, _ = qkv.shape
    down, right = effective_shift((height, width), window, shift)
    output = np.zeros((height, width, CHANNELS))
    pixels = [(y, x) for y in range(height) for x in range(width)]

    def cell(y, x):
        rolled = (y - down) % height, (x - right) % width
        return (rolled[0] // window, rolled[1] // window, y < down, x < right)

    for y, x in pixels:
        seen = [pixel for pixel in pixels if cell(*pixel) == cell(y, x)]
        for head in range(HEADS):
            part = slice(head * DEPTH, (head + 1) * DEPTH)
            query = qkv[y, x, :CHANNELS][part]
            logits = []
            for other in seen:
                row = (y - other[0]) % (2 * window - 1)  # offsets of -w+1 .. w-1
                column = (x - other[1]) % (2 * window - 1)
                row = row - (2 * window - 1) * (row >= window) + window - 1
                column = column - (2 * window - 1) * (column >= window) + window - 1
                bias = table[row * (2 * window - 1) + column, head]
                key = qkv[other][CHANNELS : 2 * CHANNELS][part]
                logits.append(query @ key / np.sqrt(DEPTH) + bias)
            weights = np.exp(logits - np.max(logits))
            weights /= weights.sum()
            values = [qkv[other][2 * CHANNELS :][part] for other in seen]
            output[y, x, part] = weights @ np.array(values)
    return output


def fast_attention(qkv, table, window, shift):
    size = qkv.shape[1:3]
    bias = jnp.moveaxis(table[relative_positions(window)], -1, 0)
    windows = to_windows(qkv, window, shift)
    attended = window_attention(windows, bias, crossings(size, window, shift))
    return from_windows(attended, size, window, shift)


def make_inputs(size, window, seed=0):
    rng = np.random.default_rng(seed)
    qkv = rng.normal(size=(2, *size, 3 * CHANNELS)).astype(np.float32)
    table = rng.normal(size=((2 * window - 1) ** 2, HEADS)).astype(np.float32)
    return qkv, table


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("size", [(6, 9), (5, 7), (4, 3), (3, 8), (2, 2), (1, 4)])
def test_attention_is_that_of_loops_over_pixels(size, shift):
    window = 3
    qkv, table = make_inputs(size, window)
    found = fast_attention(qkv, table, window, shift)
    padding = [(0, -side % window) for side in size]
    for sample, result in zip(qkv, found, strict=True):
        padded = np.pad(sample, (*padding, (0, 0)))
        expected = slow_attention(padded, table, window, shift)
        np.testing.assert_allclose(
            result, expected[: size[0], : size[1]], rtol=1e-4, atol=1e-5
        )


def test_a_shift_of_three_in_windows_of_seven_is_that_of_loops_too():
    qkv, table = make_inputs((11, 16), 7)
    found = fast_attention(qkv[:1], table, 7, 3)[0]
    padded = np.pad(qkv[0], ((0, 3), (0, 5), (0, 0)))
    expected = slow_attention(padded, table, 7, 3)[:11, :16]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_windows_without_padding_do_not_feel_it():
    """More of the map, and so other padding, leaves whole windows as they were."""
    qkv, table = make_inputs((6, 8), 3)
    whole = fast_attention(qkv, table, 3, 0)
    part = fast_attention(qkv[:, :, :7], table, 3, 0)
    np.testing.assert_allclose(part[:, :, :6], whole[:, :, :6], rtol=1e-5, atol=1e-6)
    # The last window holds one column more or less, and sees the difference.
    assert not np.allclose(part[:, :, 6], whole[:, :, 6], atol=1e-3)


def test_equal_windows_give_equal_results_wherever_they_lie():
    qkv, table = make_inputs((3, 3), 3)
    many = fast_attention(np.tile(qkv, (1, 2, 3, 1)), table, 3, 0)
    one = fast_attention(qkv, table, 3, 0)
    np.testing.assert_allclose(many, np.tile(one, (1, 2, 3, 1)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("size", "shift"), [((5, 7), 1), ((3, 8), 1), ((4, 4), 0)])
def test_cutting_into_windows_can_be_undone(size, shift):
    x = np.random.default_rng(0).normal(size=(2, *size, 5)).astype(np.float32)
    back = from_windows(to_windows(x, 3, shift), size, 3, shift)
    np.testing.assert_array_equal(back, x)


def test_large_logits_do_not_see_over_the_seam():
    """A mask of minus a hundred, say, would be outbid."""
    qkv, table = make_inputs((6, 6), 3)
    qkv[..., : 2 * CHANNELS] *= 30
    expected = slow_attention(qkv[0], table, 3, 1)
    found = fast_attention(qkv, table, 3, 1)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_gradients_are_finite_and_a_hidden_pair_has_none():
    qkv, table = make_inputs((4, 4), 3)

    def corner(qkv):  # the pixel that came around, alone in its window but for padding
        return fast_attention(qkv, table, 3, 1)[0, 0, 0].sum()

    gradient = jax.grad(corner)(jnp.asarray(qkv))
    assert jnp.isfinite(gradient).all()
    assert jnp.any(gradient[0, 0, 0] != 0)
    assert not jnp.any(gradient[0, 1:] != 0) and not jnp.any(gradient[0, :, 1:] != 0)
    assert not jnp.any(gradient[1] != 0)


def test_bfloat16_stays_bfloat16_with_a_float32_softmax():
    qkv, table = make_inputs((5, 7), 3)
    exact = fast_attention(qkv, table, 3, 1)
    rounded = fast_attention(jnp.asarray(qkv, jnp.bfloat16), table, 3, 1)
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_allclose(rounded.astype(jnp.float32), exact, atol=0.05)
