"""Forward-mode derivatives through a whole detector agree with reverse mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_retinanet import ANCHORS, LIMITS, K, ThreeLevels, make_batch

from models.detectors.retinanet import RetinaNet
from models.functional import make_detector
from models.heads.retina import RetinaHead
from models.layers import BatchNorm, Conv
from models.ops.pooling import max_pool


class PooledLayers(nnx.Module):
    """One of each kind of layer whose derivative is written out for CPUs."""

    channels = {"c5": 4}

    def __init__(self, rngs):
        self.first = Conv(3, 4, 3, stride=2, rngs=rngs)
        self.norm = BatchNorm(4, mode="local")
        self.second = Conv(4, 4, 3, stride=2, rngs=rngs)

    def __call__(self, images, *, train, key=None):
        del key
        x = max_pool(jax.nn.relu(self.norm(self.first(images), train=train)))
        return {"c5": jax.nn.relu(self.second(x))}


def construct(rngs):
    backbone = PooledLayers(rngs)
    fpn = ThreeLevels(backbone.channels, 8, first_level=5, rngs=rngs)
    head = RetinaHead(8, K, ANCHORS, num_convs=1, **LIMITS, rngs=rngs)
    constants = {"image_mean": (110.0,) * 3, "image_std": (60.0,) * 3}
    return RetinaNet(backbone, fpn, head, **constants)


@pytest.fixture(scope="module")
def weights():
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(make_detector(construct).init, jax.random.key(0))
    params, model_state = jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(0.1, 0.5, leaf.shape), leaf.dtype), shapes
    )
    direction = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), params
    )
    return params, model_state, direction


def loss_of(forward_mode, model_state):
    detector = make_detector(construct, forward_mode=forward_mode)
    batch, key = make_batch(), jax.random.key(0)
    return lambda params: detector.loss(params, model_state, batch, key)[0]


def test_the_slope_along_a_direction_is_the_gradient_times_it(weights):
    params, model_state, direction = weights
    loss = loss_of(True, model_state)

    @jax.jit
    def both(params, direction):
        _, slope = jax.jvp(loss, (params,), (direction,))
        gradient = jax.grad(loss)(params)
        products = jax.tree.map(lambda g, d: (g * d).sum(), gradient, direction)
        return slope, products

    slope, products = both(params, direction)
    for name in ("backbone", "fpn", "head"):
        assert any(product != 0 for product in jax.tree.leaves(products[name]))
    np.testing.assert_allclose(slope, sum(jax.tree.leaves(products)), rtol=1e-4)


def test_forms_for_cpus_say_that_they_have_no_forward_mode(weights):
    """Else the test above would show nothing."""
    params, model_state, direction = weights
    loss = loss_of(False, model_state)
    along = jax.jit(lambda params, change: jax.jvp(loss, (params,), (change,))[1])
    with pytest.raises(TypeError, match="forward-mode"):
        along.lower(params, direction)
