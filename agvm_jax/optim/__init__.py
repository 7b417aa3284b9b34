"""AGVM as an Optax transform, and what measures and averages gradients for it."""

from agvm_jax.optim.chaining import chain, modulate, modulation_gain
from agvm_jax.optim.modulator import AgvmState, adam_weights, agvm
from agvm_jax.optim.modules import FROZEN, label_tree, module_names
from agvm_jax.optim.reduction import (
    mean_and_phi,
    mean_and_phi_of_groups,
    mean_gradients,
    value_and_local_grad,
)
from agvm_jax.optim.streaming import GroupAccumulator, GroupPlan
from agvm_jax.optim.variance import (
    GroupStats,
    module_sq_norms,
    module_vdot,
    phi_from_halves,
    phi_from_replicas,
    phi_of_groups,
    stats_of_groups,
)

__all__ = [
    "FROZEN",
    "AgvmState",
    "GroupAccumulator",
    "GroupPlan",
    "GroupStats",
    "adam_weights",
    "agvm",
    "chain",
    "label_tree",
    "mean_and_phi",
    "mean_and_phi_of_groups",
    "mean_gradients",
    "modulate",
    "modulation_gain",
    "module_names",
    "module_sq_norms",
    "module_vdot",
    "phi_from_halves",
    "phi_from_replicas",
    "phi_of_groups",
    "stats_of_groups",
    "value_and_local_grad",
]
