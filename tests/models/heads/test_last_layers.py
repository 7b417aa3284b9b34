"""What is read as a score or a box is float32, also where the network is bfloat16.

Rounded to bfloat16, most of the best scores would be equal and a delta of an anchor of
512 pixels would move its box by two pixels or not at all.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.heads.box import BoxHead
from models.heads.mask import MaskHead
from models.heads.retina import RetinaHead
from models.heads.rpn import RPNHead
from models.ops.anchors import Anchors

CHANNELS, ROI = 16, 4
ANCHORS = Anchors(sizes=(32.0,))  # three at each place
OPTIONS = {"dtype": jnp.bfloat16}


def rpn(rngs, features, pooled):
    return RPNHead(CHANNELS, ANCHORS, rngs=rngs, **OPTIONS)([features])


def retina(rngs, features, pooled):
    head = RetinaHead(CHANNELS, 4, ANCHORS, num_convs=1, rngs=rngs, **OPTIONS)
    return head([features])


def box(rngs, features, pooled):
    return BoxHead(CHANNELS, 4, roi_size=ROI, width=16, rngs=rngs, **OPTIONS)(pooled)


def mask(rngs, features, pooled):
    head = MaskHead(CHANNELS, 4, num_convs=1, roi_size=ROI, rngs=rngs, **OPTIONS)
    return head(pooled, jnp.zeros(pooled.shape[:2], jnp.int32))


@pytest.mark.parametrize("head", [rpn, retina, box, mask])
def test_scores_and_boxes_of_a_bfloat16_head_are_not_rounded(head):
    rng = np.random.default_rng(0)
    features, pooled = (
        jnp.asarray(rng.normal(size=shape), jnp.bfloat16)
        for shape in ((1, 12, 16, CHANNELS), (1, 40, ROI, ROI, CHANNELS))
    )
    outputs = jax.jit(lambda *args: head(nnx.Rngs(0), *args))(features, pooled)
    for output in jax.tree.leaves(outputs):
        assert output.dtype == jnp.float32
        rounded = output.astype(jnp.bfloat16).astype(jnp.float32)
        assert (output == rounded).mean() < 0.02
        # No more than rounding is what the two differ by.
        np.testing.assert_allclose(output, rounded, rtol=2**-8)
