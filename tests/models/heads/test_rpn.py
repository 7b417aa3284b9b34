"""The RPN's outputs; its losses and proposals are in detectors/test_rcnn.py."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.heads.anchor_outputs import deltas_of
from models.heads.rpn import RPNHead
from models.ops.anchors import Anchors


@pytest.mark.parametrize("count", [1, 3])
def test_the_deltas_of_an_anchor_are_found_by_its_row(count):
    rng = np.random.default_rng(count)
    deltas = rng.normal(size=(20, 4 * count)).astype(np.float32)
    rows = rng.integers(0, 20 * count, 50)
    found = deltas_of(jnp.asarray(deltas), jnp.asarray(rows))
    np.testing.assert_array_equal(found, deltas.reshape(-1, 4)[rows])


def test_what_its_neighbours_diverge_to_does_not_reach_an_anchor():
    deltas = jnp.array([[1, 2, 3, 4, jnp.inf, 0, 0, jnp.nan]], jnp.float32)
    np.testing.assert_array_equal(
        deltas_of(deltas, jnp.array([0])), [[1.0, 2.0, 3.0, 4.0]]
    )


def test_each_place_has_a_logit_and_four_deltas_for_each_anchor():
    head = RPNHead(4, Anchors(sizes=(8.0, 16.0)), rngs=nnx.Rngs(0))
    maps = [jnp.ones((2, 5, 7, 4)), jnp.ones((2, 3, 4, 4))]
    logits, deltas = head(maps)
    assert [x.shape for x in logits] == [(2, 5, 7, 3), (2, 3, 4, 3)]
    assert [x.shape for x in deltas] == [(2, 5, 7, 12), (2, 3, 4, 12)]
