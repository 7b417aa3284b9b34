"""AGVM for JAX: large batches without large-batch trouble, in three lines.

    from agvm_jax import agvm, chain

    tx = chain(agvm(axis_name="data"), optax.adamw(1e-3))

This package's top level is the optimizer library; it needs jax and optax only.
"""

from agvm_jax.optim import *  # noqa: F403
from agvm_jax.optim import __all__ as __all__
