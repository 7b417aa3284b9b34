"""A stack of blocks beside the same blocks one by one."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.freezing import freeze
from models.functional import make_detector
from models.layers import BatchNorm, Conv
from models.stack import Sequence, Stack, has_layer_axis, stack_again, unstack

COUNT = 3


class Block(nnx.Module):
    """A convolution with BatchNorm, times a constant of its own, added to its input."""

    def __init__(self, mode, rngs):
        self.conv = Conv(4, 4, 3, rngs=rngs)
        self.bn = BatchNorm(4, mode=mode, axis_name="data")

    def __call__(self, x, gain, *, train):
        y = jnp.tanh(self.bn(self.conv(x), train=train))
        return x + (y if gain is None else gain * y)


class Model(nnx.Module):
    """As much of a detector as `make_detector` asks for."""

    outputs = frozenset()

    def __init__(self, kind, rngs, *, mode="local", count=COUNT, remat=True, parts=0):
        make = functools.partial(Block, mode)
        self.backbone = kind(lambda rngs: make(rngs), count, remat=remat, rngs=rngs)
        self.count = count
        if parts:
            freeze([self.backbone])

    def run(self, x, train):
        gains = jnp.linspace(1.0, 0.25, self.count)
        return self.backbone(x, gains, train=train)

    def loss(self, x, key):
        del key
        y = self.run(x, train=True)
        return jnp.square(y).sum(), {"y": y}

    def predict(self, x):
        return self.run(x, train=False)


def make(kind, **options):
    return make_detector(lambda rngs: Model(kind, rngs, **options))


@pytest.fixture(scope="module")
def images():
    x = np.random.default_rng(0).normal(size=(2, 2, 5, 6, 4))  # of two replicas
    return jnp.asarray(x, jnp.float32)


def outcome(detector, params, state, images):
    """Loss, gradients, new statistics and outputs of two replicas."""

    def replica(x):
        grads = jax.value_and_grad(detector.loss, has_aux=True)
        value, slopes = grads(params, state, x, jax.random.key(0))
        return value, slopes, detector.predict(params, state, x)

    return jax.jit(jax.vmap(replica, axis_name="data"))(images)


@pytest.mark.parametrize("mode", ["local", "synced"])
def test_a_stack_is_its_blocks_one_by_one(mode, images):
    stacked, unstacked = make(Stack, mode=mode), make(Sequence, mode=mode, remat=False)
    params, state = stacked.init(jax.random.key(0))
    # Statistics that are not those of the beginning, so that evaluation is told apart.
    state = jax.tree.map(lambda leaf: leaf + jnp.arange(4.0) / 8, state)
    (value, slopes, y) = outcome(stacked, params, state, images)
    expected = outcome(unstacked, unstack(params), unstack(state), images)
    take_apart = jax.vmap(unstack)  # behind the axis of the replicas
    (loss, (moved, parts)) = value
    actual = (loss, (take_apart(moved), parts)), take_apart(slopes), y
    chex.assert_trees_all_close(actual, expected, rtol=2e-4, atol=1e-5)
    # Each block has statistics of its own, and they moved.
    mean = moved["backbone"]["stack"]["bn"]["mean"]
    assert np.all(np.ptp(mean[0], axis=0) > 1e-3)
    assert not np.allclose(mean[0], state["backbone"]["stack"]["bn"]["mean"])


def test_each_block_starts_from_weights_of_its_own():
    params, _ = make(Stack).init(jax.random.key(0))
    kernels = params["backbone"]["stack"]["conv"]["kernel"]
    assert kernels.shape == (COUNT, 3, 3, 4, 4)
    assert np.abs(kernels[0] - kernels[1]).mean() > 0.1
    assert np.asarray(kernels).std() == pytest.approx((2 / 36) ** 0.5, rel=0.15)


@pytest.mark.parametrize("remat", [True, False])
def test_the_program_does_not_grow_with_the_depth(remat, images):
    def lines(count):
        detector = make(Stack, mode="frozen", count=count, remat=remat)
        shapes = jax.eval_shape(detector.init, jax.random.key(0))
        step = jax.jit(jax.grad(detector.loss, has_aux=True))
        text = step.lower(*shapes, images[0], jax.random.key(0)).as_text()
        return len(text.splitlines())

    assert lines(4) == lines(16)


@pytest.mark.parametrize("kind", [Stack, Sequence])
def test_what_is_rematerialised_keeps_a_blocks_input_alone(kind, images):
    def kept(remat):
        detector = make(kind, mode="frozen", remat=remat)
        params, state = jax.eval_shape(detector.init, jax.random.key(0))

        def residuals(params, state, x):
            def loss(params, x):
                return detector.loss(params, state, x, None)[0]

            return jax.vjp(loss, params, x)[1]

        shapes = jax.tree.leaves(jax.eval_shape(residuals, params, state, images[0]))
        places = images[0].size
        return sum(leaf.size for leaf in shapes if leaf.size % places == 0) / places

    # The inputs of the blocks and the last one's output; otherwise several each.
    assert kept(remat=True) <= COUNT + 2
    assert kept(remat=False) >= 2 * COUNT


def test_a_frozen_stack_has_no_parameters_and_moves_nothing(images):
    detector, plain = make(Stack, parts=1), make(Stack)
    params, state = detector.init(jax.random.key(0))
    assert params == {}
    value, slopes, y = outcome(detector, params, state, images)
    (_, (after, parts)) = value
    for replica in range(2):
        kept = jax.tree.map(lambda leaf, index=replica: leaf[index], after)
        chex.assert_trees_all_equal(kept, state)
    np.testing.assert_allclose(parts["y"], y, rtol=1e-6)
    _, _, expected = outcome(plain, *plain.init(jax.random.key(0)), images)
    np.testing.assert_allclose(y, expected, rtol=1e-6)


def test_a_stack_is_taken_apart_and_put_together_again():
    params, _ = make(Stack).init(jax.random.key(0))
    apart = unstack({**params, "head": jnp.ones(3)})
    other, _ = jax.eval_shape(make(Sequence).init, jax.random.key(0))
    chex.assert_trees_all_equal_shapes(apart["backbone"], other["backbone"])
    chex.assert_trees_all_equal(stack_again(apart)["backbone"], params["backbone"])
    assert not any(jax.tree.leaves(has_layer_axis(apart)))
    assert all(jax.tree.leaves(has_layer_axis(params)))


@pytest.mark.parametrize("kind", [Stack, Sequence])
def test_no_block_is_no_stack(kind):
    with pytest.raises(ValueError, match="stack of 0 blocks"):
        make(kind, count=0)
