"""AGVM as an Optax transform, and what measures and averages gradients for it."""

from agvm_jax.optim.baselines import lamb, lars, pmd_lamb, sam_value_and_grad
from agvm_jax.optim.chaining import agvm, chain, modulate
from agvm_jax.optim.groups import GroupPlan, split_batch
from agvm_jax.optim.modulation import AgvmState
from agvm_jax.optim.modules import label_tree
from agvm_jax.optim.noise import noise_init, noise_scale, noise_update
from agvm_jax.optim.preconditioning import adam_weights
from agvm_jax.optim.reduction import mean_and_phi
from agvm_jax.optim.replicas import value_and_local_grad
from agvm_jax.optim.stacked import mean_and_phi_of_groups, phi_of_groups

__all__ = [
    "AgvmState",
    "GroupPlan",
    "adam_weights",
    "agvm",
    "chain",
    "label_tree",
    "lamb",
    "lars",
    "mean_and_phi",
    "mean_and_phi_of_groups",
    "modulate",
    "noise_init",
    "noise_scale",
    "noise_update",
    "phi_of_groups",
    "pmd_lamb",
    "sam_value_and_grad",
    "split_batch",
    "value_and_local_grad",
]
