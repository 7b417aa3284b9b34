"""From a config to the optimizer that train.py runs, with every decision in words.

`build_optimizer` turns the sections `optim` and `agvm` of a config into a Recipe: the
optimizer, its learning rate, and the sentences that say how each derived number came
about. The builders below are the whole list of optimizers that a config may name.
"""

import dataclasses
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import optax

from agvm_jax.optim import baselines, schedules
from agvm_jax.optim.chaining import modulate
from agvm_jax.optim.layer_axis import Layered, over_layers
from agvm_jax.optim.options import AgvmOptions
from agvm_jax.optim.preconditioning import adam_weights
from agvm_jax.training.modulation_settings import (
    modulation_words,
    modules_of,
    resolve_modulation,
)

Builder = Callable[[Any, optax.Schedule], optax.GradientTransformation]


@dataclasses.dataclass(frozen=True)
class Perturbation:
    """SAM's settings for the train step; see `baselines.sam_value_and_grad`."""

    rho: float
    synced: bool


@dataclasses.dataclass(frozen=True)
class Recipe:
    """An optimizer ready to run, and the reasoning behind its numbers."""

    tx: optax.GradientTransformationExtraArgs  # with AGVM: update(..., phi={...})
    schedule: optax.Schedule  # the learning rate of a step, before mu
    warmup_steps: int
    reasons: tuple[str, ...]  # sentences to print at the start of a run
    agvm: AgvmOptions | None  # None: plain
    sam: Perturbation | None  # None: one gradient a step
    required_norm: str | None  # the `model.norm` that the method's definition includes
    ema_decay: float = 0.0  # of the weights' moving average; 0: there is none

    def weights(self, opt_state: optax.OptState) -> Any:
        """Return what `GroupPlan.add` and `finish` take as weights: mostly None.

        With `agvm.precondition`, 1 / (sqrt(v) + eps) of the step before.
        """
        if self.agvm is None or not self.agvm.precondition:
            return None
        return adam_weights(opt_state, self.agvm.precondition_eps)


def _sgd(config: Any, rate: optax.Schedule) -> optax.GradientTransformation:
    return baselines.sgd(
        rate, config.momentum, config.weight_decay, mask=_decayed(config)
    )


def _adamw(config: Any, rate: optax.Schedule) -> optax.GradientTransformation:
    return optax.adamw(
        rate,
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=_decayed(config),
    )


def _decayed(config: Any) -> Callable | None:
    """Return which parameters decay, as `optax.add_decayed_weights` takes it."""
    return baselines.all_but(config.no_decay) if config.no_decay else None


def _lars(config: Any, rate: optax.Schedule) -> optax.GradientTransformation:
    return baselines.lars(
        rate, config.momentum, config.weight_decay, config.trust_coefficient
    )


def _lamb(config: Any, rate: optax.Schedule) -> optax.GradientTransformation:
    return baselines.lamb(rate, config.b1, config.b2, config.eps, config.weight_decay)


def _pmd_lamb(config: Any, rate: optax.Schedule) -> optax.GradientTransformation:
    return baselines.pmd_lamb(
        rate,
        config.b1,
        config.b2,
        config.eps,
        config.weight_decay,
        config.pmd_period,
        config.pmd_decay,
    )


def _sam(config: Any, rate: optax.Schedule) -> optax.GradientTransformation:
    # SAM changes the gradient, in the train step; the step itself is an ordinary one.
    inner = {"sgd": _sgd, "adamw": _adamw}
    if config.sam_inner not in inner:
        raise ValueError(
            f"optim.sam_inner is {config.sam_inner!r}; choose one of "
            f"{', '.join(inner)}."
        )
    return inner[config.sam_inner](config, rate)


BUILDERS: Mapping[str, Builder] = {
    "sgd": _sgd,
    "adamw": _adamw,
    "lars": _lars,
    "lamb": _lamb,
    "pmd_lamb": _pmd_lamb,
    "sam": _sam,
    "megdet": _sgd,  # the method is synced norms and a warm-up around plain SGD
}


# Those that leave biases and norms out of weight decay by their definition.
EXCLUDING = ("lars", "lamb", "pmd_lamb")
# Those that look at whole arrays, and so have to know of a layer axis.
WHOLE_ARRAYS = EXCLUDING


def build_optimizer(
    optim_config: Any,
    agvm_config: Any,
    *,
    batch_size: int,
    total_steps: int,
    steps_per_epoch: float,
    modules: Any = None,
    layered: Layered | None = None,
) -> Recipe:
    """Return the optimizer that a config describes.

    Args:
      optim_config: any object with the attributes of `config.optim`.
      agvm_config: any object with the attributes of `config.agvm`.
      batch_size: images a step, over all devices and micro-batches.
      total_steps: optimizer steps of the run.
      steps_per_epoch: optimizer steps an epoch, for a warm-up given in epochs.
      modules: how parameters are grouped, as `label_tree` takes it; None: as the
        section `agvm` says.
      layered: which parameters have a layer axis, see `over_layers`; None: none has.

    With AGVM on, the train step measures phi (see `reduction`) and calls
    `tx.update(mean_grads, state, params, phi=phi)`.

    Raises:
      ValueError: for an unknown optimizer and for values that its parts refuse.
    """
    name = optim_config.name
    if name not in BUILDERS:
        raise ValueError(
            f"optim.name is {name!r}; choose one of {', '.join(BUILDERS)}."
        )
    if optim_config.no_decay and name in EXCLUDING:
        raise ValueError(
            f"optim.no_decay is {tuple(optim_config.no_decay)}, but {name} has a rule "
            "of its own: vectors do not decay. Leave it empty."
        )
    reasons: list[str] = []
    schedule, warmup_steps = _schedule(
        optim_config, batch_size, total_steps, steps_per_epoch, reasons
    )
    tx = BUILDERS[name](optim_config, schedule)
    if layered is not None and name in WHOLE_ARRAYS:
        tx = over_layers(tx, layered)
    tx = _clipped(tx, optim_config, warmup_steps, reasons)

    sam = required_norm = None
    if name == "sam":
        sam = Perturbation(optim_config.sam_rho, optim_config.sam_synced)
        whose = "one for all replicas" if sam.synced else "each replica its own"
        reasons.append(
            f"sam: perturbation of length {sam.rho:g}, {whose}; two gradients a step "
            f"around {optim_config.sam_inner}"
        )
    if name == "megdet":
        required_norm = "synced"
        reasons.append("megdet: SGD with linear warm-up; needs model.norm = synced")
    if name == "pmd_lamb":
        reasons.append(
            "pmd_lamb: a reconstruction (the algorithm's text is not public here); "
            f"moments x {optim_config.pmd_decay:g} every {optim_config.pmd_period} "
            "steps"
        )

    agvm = None
    if agvm_config.enabled:
        agvm = resolve_modulation(
            agvm_config, optim_config, batch_size=batch_size, warmup_steps=warmup_steps
        )
        reasons.append(
            modulation_words(
                agvm, agvm_config, name, batch_size=batch_size, total_steps=total_steps
            )
        )
        options = {
            field.name: getattr(agvm, field.name) for field in dataclasses.fields(agvm)
        }
        if modules is None:
            modules = modules_of(agvm_config)
        tx = modulate(tx, modules=modules, **options)
    return Recipe(
        tx=optax.with_extra_args_support(tx),
        schedule=schedule,
        warmup_steps=warmup_steps,
        reasons=tuple(reasons),
        agvm=agvm,
        sam=sam,
        required_norm=required_norm,
    )


def _schedule(
    config: Any,
    batch_size: int,
    total_steps: int,
    steps_per_epoch: float,
    reasons: list[str],
) -> tuple[optax.Schedule, int]:
    keys = (
        "lr lr_batch lr_rule linear_limit warmup warmup_epochs warmup_steps "
        "warmup_ratio schedule decay_at decay_factor poly_power end_ratio"
    ).split()
    view = SimpleNamespace(**{key: getattr(config, key) for key in keys})
    if view.lr == 0:
        view.lr, view.lr_batch, view.lr_rule, whose = schedules.USUAL_RATES[config.name]
        reasons.append(
            f"optim.lr is 0: the usual rate for {config.name}, {view.lr:g} per "
            f"{view.lr_batch} ({whose})"
        )
    if config.name == "megdet" and view.warmup != "linear":
        reasons.append(
            f"megdet warms up linearly; optim.warmup={view.warmup} is unused"
        )
        view.warmup = "linear"
    schedule, reason, warmup_steps = schedules.learning_rate_schedule(
        view, batch_size, total_steps, steps_per_epoch
    )
    reasons.append(reason)
    return schedule, warmup_steps


def _clipped(
    tx: optax.GradientTransformation,
    config: Any,
    warmup_steps: int,
    reasons: list[str],
) -> optax.GradientTransformation:
    """Clip the mean gradient's global norm, in a window of steps if there is one.

    The released code clips only in the 200 steps around the end of the warm-up, which
    `clip_around_warmup` says for any batch. phi is measured before, on gradients that
    are not clipped.
    """
    if config.clip_norm < 0:
        raise ValueError(
            f"optim.clip_norm is {config.clip_norm}; use 0 for no clipping."
        )
    if config.clip_norm == 0:
        return tx
    first, last = config.clip_window
    start = warmup_steps if config.clip_around_warmup else 0
    if (first < 0 and not config.clip_around_warmup) or (last != -1 and last < first):
        raise ValueError(
            f"optim.clip_window is {(first, last)}; it is (first step, last step), "
            "both included, with -1 as the last for the whole run; a first step below "
            "0 needs optim.clip_around_warmup=True, which counts from the warm-up's "
            "end."
        )
    first, last = max(0, start + first), last if last == -1 else start + last
    clip = optax.clip_by_global_norm(config.clip_norm)
    where = ""
    if (first, last) != (0, -1):
        where = f" from step {first} to {'the end' if last == -1 else last}"
        where += ", around the end of the warm-up" if config.clip_around_warmup else ""
        clip = optax.transforms.conditionally_transform(
            clip,
            lambda step: (step >= first) & ((step <= last) | (last == -1)),
        )
    reasons.append(f"gradients clipped to global norm {config.clip_norm:g}{where}")
    return optax.chain(clip, tx)
