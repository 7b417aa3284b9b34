"""Muon around the kernels of convolutions, as docs/optimizers.md says."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from optax import contrib

from agvm_jax.optim import modulate

PAGE = Path(__file__).resolve().parents[2] / "docs" / "optimizers.md"
PHI = {"backbone": 0.8, "head": 0.2}


def test_muon_of_the_docs_orthogonalises_kernels_of_convolutions():
    """By default they go to AdamW, as the state shows."""
    (example,) = re.findall(r"```python\n(import jax\n.*?)```", PAGE.read_text(), re.S)
    space = {}
    exec(example, space)
    params = {
        "backbone": {"kernel": jnp.zeros((3, 3, 2, 4)), "bias": jnp.zeros(4)},
        "head": {"kernel": jnp.zeros((1, 1, 4, 6))},
    }
    keys = jax.random.split(jax.random.key(0), 3)
    grads = {
        "backbone": {"kernel": jax.random.normal(keys[0], (3, 3, 2, 4))},
        "head": {"kernel": jax.random.normal(keys[1], (1, 1, 4, 6))},
    }
    grads["backbone"]["bias"] = jax.random.normal(keys[2], (4,))
    tx = modulate(space["optimizer"], alpha=0.0, eps=0.0)
    state = tx.init(params)
    updates, state = jax.jit(tx.update)(grads, state, params, phi=PHI)
    moments = _kernels_with_muon(state[1])
    assert moments == {"backbone": True, "head": True}
    assert _kernels_with_muon(contrib.muon(1e-3).init(params)) == {
        "backbone": False,
        "head": False,
    }
    for module, mu in (("backbone", 1.0), ("head", 2.0)):
        kernel = np.asarray(updates[module]["kernel"])
        matrix = kernel.reshape(-1, kernel.shape[-1])
        # 0.2 sqrt(longer side) times a nearly orthogonal matrix.
        size = 1e-3 * mu * 0.2 * np.sqrt(max(matrix.shape))
        values = np.linalg.svd(matrix, compute_uv=False) / size
        assert 0.5 < values.min() and values.max() < 1.3
    bias = np.abs(updates["backbone"]["bias"])
    np.testing.assert_allclose(bias, bias[0], rtol=1e-3)  # signs, as Adam's first step


def _kernels_with_muon(state):
    mu = state.inner_states["muon"].inner_state[0].mu
    return {m: isinstance(mu[m]["kernel"], jax.Array) for m in ("backbone", "head")}
