"""Programs for GPUs and TPUs, lowered here: no loops but those that are meant."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_rcnn import IMAGES as SETTINGS
from small_rcnn import make_batch_with_masks, make_parts

from models.detectors.rcnn import RCNN
from models.functional import make_detector

IMAGES = 16
PLATFORMS = {"gpu": "cuda", "tpu": "tpu"}
QUICKLY = {"xla_backend_optimization_level": 0}  # what takes longest is compiling


def construct(rngs):
    return RCNN(**make_parts(rngs, masks=True), **SETTINGS)


def lowered_step(forms):
    detector = make_detector(construct, forms)
    tx = optax.sgd(0.1, momentum=0.9)

    def step(params, model_state, opt_state, batch, key):
        gradient = jax.value_and_grad(detector.loss, has_aux=True)
        (loss, (model_state, _)), slopes = gradient(params, model_state, batch, key)
        updates, opt_state = tx.update(slopes, opt_state, params)
        return optax.apply_updates(params, updates), model_state, opt_state, loss

    def many(array):
        return jax.ShapeDtypeStruct((IMAGES, *array.shape[1:]), array.dtype)

    key = jax.random.key(0)
    weights = jax.eval_shape(detector.init, key)
    opt_state = jax.eval_shape(tx.init, weights[0])
    traced = jax.jit(step).trace(
        *weights, opt_state, jax.tree.map(many, make_batch_with_masks()), key
    )
    return traced.lower(lowering_platforms=(PLATFORMS[forms],)).as_text()


def test_a_training_step_has_few_loops():
    """Two of matching, one of NMS, one of the masks; the forms for CPUs have 39."""
    program = lowered_step("gpu")
    assert program.count("stablehlo.while") <= 12


@pytest.mark.slow
def test_the_forms_for_tpus_give_mask_rcnn_the_losses_of_cpus():
    """Of a GPU's forms theirs differ in RoIAlign and repetition alone."""
    rng = np.random.default_rng(0)

    def random(leaf):  # compiling `init` would take longer than the rest
        spread = 0.0 if leaf.ndim < 2 else np.sqrt(2.0 / np.prod(leaf.shape[:-1]))
        return jnp.asarray(rng.normal(0.0, spread, leaf.shape), leaf.dtype)

    shapes = jax.eval_shape(make_detector(construct).init, jax.random.key(0))
    params, model_state = jax.tree.map(random, shapes)
    found = {}
    for forms in ("cpu", "tpu"):
        loss = jax.jit(make_detector(construct, forms).loss, compiler_options=QUICKLY)
        _, (_, parts) = loss(
            params, model_state, make_batch_with_masks(), jax.random.key(0)
        )
        found[forms] = parts
    assert found["cpu"]["mask"] > 0
    chex.assert_trees_all_close(found["tpu"], found["cpu"], rtol=1e-4)
