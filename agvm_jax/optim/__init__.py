"""AGVM as an Optax transform, and what measures and averages gradients for it."""

from agvm_jax.optim.baselines import lamb, lars, pmd_lamb, sam_value_and_grad
from agvm_jax.optim.chaining import chain, modulate
from agvm_jax.optim.gain import modulation_gain
from agvm_jax.optim.modulator import AgvmState, agvm
from agvm_jax.optim.modules import FROZEN, label_tree, module_names
from agvm_jax.optim.noise import (
    NoiseState,
    noise_init,
    noise_scale,
    noise_update,
    useful_batch_sentence,
)
from agvm_jax.optim.preconditioning import adam_weights
from agvm_jax.optim.recipes import Recipe, build_optimizer, check_modulation
from agvm_jax.optim.reduction import (
    mean_and_phi,
    mean_and_phi_of_groups,
    mean_gradients,
    value_and_local_grad,
)
from agvm_jax.optim.schedules import batch_size_factor, learning_rate_schedule
from agvm_jax.optim.streaming import GroupAccumulator, GroupPlan, split_batch
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
    "NoiseState",
    "Recipe",
    "adam_weights",
    "agvm",
    "batch_size_factor",
    "build_optimizer",
    "chain",
    "check_modulation",
    "label_tree",
    "lamb",
    "lars",
    "learning_rate_schedule",
    "mean_and_phi",
    "mean_and_phi_of_groups",
    "mean_gradients",
    "modulate",
    "modulation_gain",
    "module_names",
    "module_sq_norms",
    "module_vdot",
    "noise_init",
    "noise_scale",
    "noise_update",
    "phi_from_halves",
    "phi_from_replicas",
    "phi_of_groups",
    "split_batch",
    "pmd_lamb",
    "sam_value_and_grad",
    "stats_of_groups",
    "useful_batch_sentence",
    "value_and_local_grad",
]
