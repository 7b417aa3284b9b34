"""Small parameters, phis and a loop, for the tests of the modulator."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

PARAMS = {"backbone": jnp.ones(3), "fpn": jnp.ones((2, 2)), "head": jnp.ones(2)}
GRADS = jax.tree.map(lambda p: 0.5 * jnp.ones_like(p), PARAMS)
PHI = {"backbone": 0.9, "fpn": 0.3, "head": 1.2}
NAN = dict.fromkeys(PHI, float("nan"))


def run(tx, phis, params=PARAMS):
    """Return the state after updates with each phi in turn."""
    state = tx.init(params)
    update = jax.jit(tx.update)
    for phi in phis:
        phi = {m: jnp.float32(value) for m, value in phi.items()}
        _, state = update(GRADS, state, params, phi=phi)
    return optax.tree.get(state, "AgvmState")


def some_phis(count, seed=0):
    rng = np.random.default_rng(seed)
    return [{m: rng.uniform(0.02, 2) for m in PHI} for _ in range(count)]
