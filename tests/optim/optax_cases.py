"""Every transform of Optax, beside the nesting with AGVM that is right for it.

The rows are those of the table in docs/optimizers.md.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

from agvm_jax.optim import modulate

RATE = 0.05
# mu of the head is 2, to the last bit, from the first step on.
FIXED = dict(alpha=0.0, eps=0.0, tau=10**6)
PHI = {"backbone": 0.8, "head": 0.2}
RNG = np.random.default_rng(0)
PARAMS = {
    "backbone": {"kernel": jnp.asarray(RNG.uniform(0.5, 1, (3, 3)), jnp.float32)},
    "head": {"kernel": jnp.asarray(RNG.uniform(0.1, 1, (3, 3)), jnp.float32)},
}
EVERYWHERE = dict.fromkeys(PARAMS, True)
ALL = dict.fromkeys(PARAMS, "all")


def doubled(tx):
    """The transform with the head's updates twice as large: what mu = 2 means."""
    tx = optax.with_extra_args_support(tx)

    def update(updates, state, params=None, **extra_args):
        updates, state = tx.update(updates, state, params, **extra_args)
        head = jax.tree.map(lambda u: 2 * u, updates["head"])
        return {**updates, "head": head}, state

    return optax.GradientTransformationExtraArgs(tx.init, update)


def modulated(tx):
    return modulate(tx, **FIXED)


def of(names, *args, within=optax, **kwargs):
    """{name: its transform} of factories that are called alike."""
    return {name: getattr(within, name)(*args, **kwargs) for name in names.split()}


def deprecated(name, *args, within=optax, **kwargs):
    """A factory that warns, or whose argument does in one of Optax's releases."""
    with warnings.catch_warnings(action="ignore"):
        return getattr(within, name)(*args, **kwargs)


def in_contrib(transforms):
    return {f"contrib.{name}": tx for name, tx in transforms.items()}


MODULES_APART = {
    **of(
        "adabelief adadelta adafactor adagrad adam adamax adamaxw adamw adan amsgrad "
        "fromage lamb lars lion nadam nadamw novograd optimistic_adam_v2 "
        "optimistic_gradient_descent radam rmsprop rprop sgd sign_sgd signum sm3 yogi",
        RATE,
    ),
    "noisy_sgd": optax.noisy_sgd(RATE, eta=0.01, key=0),
    "optimistic_adam": deprecated("optimistic_adam", RATE, optimism=0.1),
    **in_contrib(
        of(
            "acprop ademamix adopt muon simplified_ademamix sophia",
            RATE,
            within=contrib,
        )
    ),
    "contrib.galore": contrib.galore(RATE, rank=2),
}

PARTS = {
    **of(
        "scale_by_adadelta scale_by_adam scale_by_adamax scale_by_adan "
        "scale_by_amsgrad scale_by_belief scale_by_distance_over_gradients "
        "scale_by_factored_rms scale_by_lion scale_by_novograd "
        "scale_by_optimistic_gradient scale_by_param_block_norm "
        "scale_by_param_block_rms scale_by_radam scale_by_rms scale_by_rss "
        "scale_by_sign scale_by_sm3 scale_by_stddev scale_by_trust_ratio "
        "scale_by_yogi centralize identity set_to_zero zero_nans"
    ),
    **of(
        "adaptive_grad_clip add_decayed_weights clip clip_by_block_rms ema scale "
        "scale_by_learning_rate scale_by_rprop trace",
        0.9,
    ),
    "add_noise": optax.add_noise(eta=0.01, gamma=0.55, key=0),
    "scale_by_schedule": optax.scale_by_schedule(lambda step: 1 / (1 + step)),
    "stateless": optax.stateless(lambda updates, _: updates),
    "stateless_with_tree_map": optax.stateless_with_tree_map(lambda u, _: jnp.sign(u)),
    **in_contrib(
        of(
            "hutchinson_estimator_diag_hessian scale_by_acprop scale_by_ademamix "
            "scale_by_adopt scale_by_simplified_ademamix",
            within=contrib,
        )
    ),
    "contrib.scale_by_muon": contrib.scale_by_muon(
        weight_dimension_numbers=lambda params: jax.tree.map(
            lambda _: contrib.MuonDimensionNumbers(), params
        )
    ),
    "contrib.scale_by_galore": contrib.scale_by_galore(rank=2),
}

ONE_RATE_FOR_ALL = {
    "clip_by_global_norm": optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(RATE)),
    "normalize_by_update_norm": optax.chain(
        optax.normalize_by_update_norm(), optax.sgd(RATE)
    ),
    "polyak_sgd": optax.polyak_sgd(RATE),
    "scale_by_lbfgs": optax.chain(optax.scale_by_lbfgs(), optax.sgd(RATE)),
    "scale_by_polyak": optax.chain(optax.scale_by_polyak(), optax.sgd(RATE)),
    "contrib.dadapt_adamw": contrib.dadapt_adamw(estim_lr0=0.01),
    "contrib.normalize": optax.chain(contrib.normalize(), optax.sgd(RATE)),
    **in_contrib(of("momo momo_adam", RATE, within=contrib)),
    "contrib.prodigy": contrib.prodigy(estim_lr0=0.01),
}

BEHIND_THE_SCALE = {
    "apply_every": optax.apply_every(2),
    "keep_params_nonnegative": optax.keep_params_nonnegative(),
    "monitor": optax.monitor({"rms": lambda updates, **_: optax.tree.norm(updates)}),
    "snapshot": optax.snapshot("seen", lambda updates, **_: updates),
}

SEARCHES = {
    "scale_by_backtracking_linesearch": optax.scale_by_backtracking_linesearch(
        4, store_grad=True
    ),
    "scale_by_zoom_linesearch": optax.scale_by_zoom_linesearch(
        4, initial_guess_strategy="one"
    ),
}

AROUND = {
    "lookahead": lambda tx: optax.lookahead(tx, sync_period=2, slow_step_size=0.5),
    "contrib.mechanize": lambda tx: contrib.mechanize(tx, s_init=0.1),
    "contrib.schedule_free": lambda tx: contrib.schedule_free(tx, RATE),
}

SCHEDULE_FREE = {
    "contrib.schedule_free_sgd": contrib.schedule_free_sgd(RATE),
    "contrib.schedule_free_adamw": contrib.schedule_free_adamw(RATE),
}

# Refused inside modulate(), beside what the refusal says to write.
REFUSED = {
    "lbfgs": (optax.lbfgs(), "with scale_by_lbfgs"),
    **{
        name: (tx, r"schedule_free\(modulate\(optimizer")
        for name, tx in SCHEDULE_FREE.items()
    },
    **{
        name: (wrapper(optax.sgd(RATE)), rf"{name[8:]}\(modulate\(optimizer")
        for name, wrapper in AROUND.items()
        if name != "lookahead"
    },
    "lookahead": (AROUND["lookahead"](optax.sgd(RATE)), r"lookahead\(modulate\("),
    "contrib.sam": (
        contrib.sam(optax.sgd(RATE), optax.sgd(0.1)),
        r"modulate\(optimizer, ...\), with gradients of agvm_jax.sam_value_and_grad",
    ),
    **{
        f"contrib.{name}": (tx, r"modulate\(...\) around another optimizer")
        for name, tx in {
            "cocob": contrib.cocob(),
            "madgrad": contrib.madgrad(RATE),
            "scale_by_cocob": contrib.scale_by_cocob(),
            "scale_by_madgrad": contrib.scale_by_madgrad(RATE),
        }.items()
    },
    **{
        f"contrib.{name}": (tx, rf"chain\(agvm\(..., scale_gradients=True\), {name}\(")
        for name, tx in {"dog": contrib.dog(), "dowg": contrib.dowg()}.items()
    },
}


def later(step, *_, **__):
    return step > 0


# Wrappers around an optimizer, {name: wrapper(tx)}: AGVM may stand on either side.
EITHER_SIDE = {
    "chain": lambda tx: optax.chain(tx, optax.scale(0.5)),
    "conditionally_mask": lambda tx: optax.conditionally_mask(tx, later),
    "freeze": lambda tx: optax.chain(tx, optax.freeze({**EVERYWHERE, "head": False})),
    "inject_hyperparams": lambda tx: optax.inject_hyperparams(lambda rate: tx)(RATE),
    "inject_stateful_hyperparams": lambda tx: deprecated(
        "inject_stateful_hyperparams", lambda rate: tx
    )(RATE),
    "masked": lambda tx: optax.masked(tx, EVERYWHERE),
    "multi_transform": lambda tx: optax.multi_transform({"all": tx}, ALL),
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 2),
    "named_chain": lambda tx: optax.named_chain(
        ("sgd", tx), ("half", optax.scale(0.5))
    ),
    "partition": lambda tx: optax.partition({"all": tx}, ALL),
    "selective_transform": lambda tx: optax.selective_transform(
        tx, freeze_mask=dict.fromkeys(PARAMS, False)
    ),
    "with_extra_args_support": optax.with_extra_args_support,
    "contrib.reduce_on_plateau": lambda tx: optax.chain(
        tx, contrib.reduce_on_plateau(patience=1)
    ),
}

# AGVM goes around these.
INSIDE = {
    "apply_if_finite": optax.apply_if_finite(optax.sgd(RATE), 3),
    "conditionally_transform": optax.conditionally_transform(optax.sgd(RATE), later),
    "flatten": optax.flatten(optax.adam(RATE)),
    "contrib.split_real_and_imaginary": contrib.split_real_and_imaginary(
        optax.sgd(RATE)
    ),
}

PRIVATE = {
    "contrib.differentially_private_aggregate": optax.chain(
        contrib.differentially_private_aggregate(1.0, 0.1, key=0), optax.sgd(RATE)
    ),
    "contrib.dpsgd": deprecated("dpsgd", RATE, 1.0, 0.1, 0, within=contrib),
}

IN_FRONT = {"contrib.dog": contrib.dog(), "contrib.dowg": contrib.dowg()}

NO_NESTING = [
    f"contrib.{name}"
    for name in ("cocob", "madgrad", "scale_by_cocob", "scale_by_madgrad")
]

# The table in docs/optimizers.md: what to write, and for which names.
ROWS = [
    ("modulate(X)", MODULES_APART),
    ("chain(agvm(), X, ...)", PARTS),
    ("modulate(X)", ONE_RATE_FOR_ALL),
    ("chain(agvm(scale_gradients=True), X)", IN_FRONT),
    ("X(modulate(optimizer))", AROUND),
    ("schedule_free(modulate(optimizer), rate)", SCHEDULE_FREE),
    ("chain(agvm(), optimizer, X)", BEHIND_THE_SCALE | SEARCHES),
    (
        "chain(agvm(), scale_by_lbfgs(), scale(-1.0), scale_by_zoom_linesearch(20))",
        ["lbfgs"],
    ),
    ("X(modulate(optimizer))", EITHER_SIDE),
    ("modulate(X(optimizer))", INSIDE),
    ("chain(differentially_private_aggregate(...), agvm(), sgd(rate))", PRIVATE),
    ("modulate(optimizer)", ["contrib.sam"]),
    ("", NO_NESTING),
]

# Public functions of Optax that are no transforms of updates.
HELPERS = set(
    "apply_updates bias_correction global_norm incremental_update "
    "init_empty_state matrix_inverse_pth_root measure_with_ema microbatch "
    "multi_normal nnls per_example_global_norm_clip per_example_layer_norm_clip "
    "periodic_update power_iteration safe_increment safe_int32_increment safe_norm "
    "safe_root_mean_squares scale_gradient skip_large_updates skip_not_finite "
    "tree_map_params update_infinity_moment update_moment "
    "update_moment_per_elem_norm value_and_grad_from_state "
    "contrib.schedule_free_eval_params".split()
)
