"""What agvm refuses, and what it says."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from modulator_cases import GRADS, PARAMS, PHI

from agvm_jax.optim import adam_weights, agvm, modulate

# agvm is used alone here, which it warns of.
pytestmark = pytest.mark.filterwarnings("ignore:agvm scales gradients")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(tau=0), "tau=0.*whole number from 1 on"),
        (dict(tau=2.7), "tau=2.7.*whole number"),
        (dict(alpha=0.99999999), r"alpha=0.99999999.*as a float32"),
        (dict(eps=float("inf")), "eps=inf.*finite"),
        (dict(clip=(float("nan"), 2.0)), "clip=.*low <= 1 <= high"),
        (dict(average="debias"), "average='debias'.*growing"),
        (dict(estimator="replicas"), "'replicas' is called 'norms' now"),
        (dict(alpha=1.0), r"alpha=1.0.*\[0, 1\)"),
        (dict(alpha=-0.1), r"alpha=-0.1"),
        (dict(clip=(10.0, 0.5)), r"clip=\(10.0, 0.5\).*low <= 1 <= high"),
        (dict(clip=(2.0, 3.0)), "anchor's own ratio is 1"),
        (dict(tau=float("inf")), "tau=inf.*whole number"),
        (dict(start_step=-1), "start_step=-1"),
        (dict(start_step=0.5), "start_step=0.5.*whole number"),
        (dict(start_step=float("nan")), "start_step=nan.*whole number"),
        (dict(eps=-1.0), "eps=-1.0"),
        (dict(estimator="both"), "estimator='both'"),
        (dict(split="random"), "split='random'"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        agvm(**options)
    with pytest.raises(ValueError, match=message):
        modulate(optax.sgd(0.1), **options)


def test_an_anchor_that_is_no_module_is_refused_with_the_modules():
    with pytest.raises(ValueError, match="'neck'.*'backbone', 'fpn', 'head'"):
        agvm(anchor="neck").init(PARAMS)


def test_no_axis_and_no_phi_is_refused():
    tx = agvm()
    with pytest.raises(ValueError, match="no axis and got no phi"):
        tx.update(GRADS, tx.init(PARAMS), PARAMS)


def test_an_axis_that_is_not_there_is_refused():
    tx = agvm("data")
    with pytest.raises(ValueError, match="no axis 'data' here"):
        tx.update(GRADS, tx.init(PARAMS), PARAMS)


@pytest.mark.parametrize("phi", [{"backbone": 1.0}, {**PHI, "neck": 1.0}])
def test_a_phi_for_other_modules_is_refused(phi):
    tx = agvm()
    with pytest.raises(ValueError, match="phi has modules.*the parameters have"):
        tx.update(GRADS, tx.init(PARAMS), PARAMS, phi=phi)


def test_params_and_updates_that_differ_are_refused():
    tx = agvm()
    state = tx.init(PARAMS)
    fewer = {m: GRADS[m] for m in ("backbone", "fpn")}
    with pytest.raises(ValueError, match="differ in structure, first at 'head'"):
        tx.update(fewer, state, PARAMS, phi=PHI)
    with pytest.raises(ValueError, match="state was made for"):
        tx.update(fewer, state, phi=PHI)


def test_preconditioning_finds_each_parameters_own_second_moment():
    """Several optimizers share the parameters; each keeps the nu of its part."""
    parts = {"backbone": "adam", "fpn": "lamb", "head": "adam"}
    tx = optax.partition({"adam": optax.adam(0.1), "lamb": optax.lamb(0.1)}, parts)
    _, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match="2 trees.*params="):
        adam_weights(state)
    weights = adam_weights(state, 0.5, PARAMS)
    for module, weight in weights.items():
        v = 0.001 * GRADS[module] ** 2
        np.testing.assert_allclose(weight, 1 / (np.sqrt(v) + 0.5), rtol=1e-6)
    some = optax.partition({"adam": optax.adam(0.1), "lamb": optax.sgd(0.1)}, parts)
    with pytest.raises(ValueError, match="1 parameters, 'fpn' first.*keeps none"):
        adam_weights(some.init(PARAMS), params=PARAMS)


def test_preconditioning_by_adam_needs_adam_and_a_chain_of_ours():
    alone = agvm("data", precondition=True)
    with pytest.raises(ValueError, match="agvm_jax.chain"):
        alone.update(GRADS, alone.init(PARAMS), PARAMS, phi=PHI)

    def update(inner, grads):
        tx = modulate(inner, "data", precondition=True)
        return tx.update(grads, tx.init(PARAMS), PARAMS)

    stacked = jax.tree.map(lambda g: jnp.stack([g, 2 * g]), GRADS)
    for inner, message in (
        (optax.sgd(0.1), "no second moment 'nu'"),
        (optax.chain(optax.adam(0.1), optax.adam(0.1)), "found 2 second moments"),
    ):
        with pytest.raises(ValueError, match=message):
            jax.vmap(functools.partial(update, inner), axis_name="data")(stacked)
