"""Learning rate from batch size, warm-up and decay, with the reasoning in words.

A learning rate is tuned at one batch size and used at another, so every run starts with
the same sum: base rate, times a factor for the batch, times a warm-up, times a decay.
Each part is a function here; `learning_rate_schedule` multiplies them and returns a
sentence that train.py prints, such as "0.02 per 16 x 20.0 (sqrt above 128) = 0.4".
"""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import optax

BATCH_RULES = ("sqrt_above", "linear", "sqrt", "none")
WARMUPS = ("exponential", "linear")
DECAYS = ("constant", "step", "poly", "cosine")

# For optim.lr = 0: (rate, its batch, rule, whose). RetinaNet, ImageNet-pretrained.
USUAL_RATES = {
    "sgd": (0.01, 16, "sqrt_above", "RetinaNet, 0.000625 an image"),
    "megdet": (0.01, 16, "sqrt_above", "RetinaNet, 0.000625 an image"),
    "sam": (0.01, 16, "sqrt_above", "that of SGD"),
    "adamw": (1e-4, 32, "sqrt", "fits the paper's 0.0015 at 10240 within 20 %"),
    "lamb": (0.005, 512, "sqrt", "the LAMB paper's, ResNet-50 on ImageNet"),
    "pmd_lamb": (0.005, 512, "sqrt", "that of LAMB"),
    "lars": (10.0, 4096, "sqrt", "usual for ResNet-50 on ImageNet"),
}


def _choose(what: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{what} is {value!r}; choose one of {', '.join(allowed)}.")


def batch_size_factor(
    rule: str, batch_size: int, base_batch_size: int, linear_limit: int = 128
) -> tuple[float, str]:
    """Return what the base rate is multiplied by at `batch_size`, and why.

    `sqrt_above`, the AGVM paper's rule for SGD, is linear up to `linear_limit` images
    (128 for detection, 256 for semantic segmentation) and grows with the square root
    above. It is computed as s(batch) / s(base) with s(b) = b up to the limit L and
    sqrt(b L) above, so a base batch above the limit is scaled by the root alone.

    >>> batch_size_factor("sqrt_above", 800, 16)
    (20.0, 'sqrt above 128')
    >>> batch_size_factor("linear", 64, 16)
    (4.0, 'linear')

    Raises:
      ValueError: for an unknown rule or a size below 1.
    """
    _choose("The batch-size rule (optim.lr_rule)", rule, BATCH_RULES)
    sizes = {
        "batch_size": batch_size,
        "optim.lr_batch": base_batch_size,
        "optim.linear_limit": linear_limit,
    }
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}; it must be at least 1.")
    if rule == "none":
        return 1.0, "same at every batch"
    if rule == "linear":
        return batch_size / base_batch_size, "linear"
    if rule == "sqrt":
        return math.sqrt(batch_size / base_batch_size), "sqrt"

    def size(batch: int) -> float:
        return min(batch, math.sqrt(batch * linear_limit))

    why = "sqrt above" if batch_size > linear_limit else "linear up to"
    return size(batch_size) / size(base_batch_size), f"{why} {linear_limit}"


def warmup(kind: str, steps: int, ratio: float) -> optax.Schedule:
    """Return a schedule that climbs from `ratio` to 1 in `steps` steps and stays there.

    exponential: ratio ** (1 - t / T), mmcv's 'exp', which the released AGVM code uses.
    linear: 1 - (1 - t / T) (1 - ratio), the same amount every step, as in MegDet.

    >>> climb = warmup("exponential", steps=2, ratio=0.01)
    >>> [round(float(climb(t)), 3) for t in range(4)]
    [0.01, 0.1, 1.0, 1.0]

    Raises:
      ValueError: for an unknown kind, negative steps, or a ratio outside (0, 1].
    """
    _choose("The warm-up (optim.warmup)", kind, WARMUPS)
    if steps < 0:
        raise ValueError(f"The warm-up lasts {steps} steps; it must be 0 or more.")
    if not 0 < ratio <= 1:
        raise ValueError(
            f"optim.warmup_ratio is {ratio}; it is the first rate as a share of the "
            "full rate, so it must be above 0 and at most 1."
        )
    if steps == 0:
        return optax.constant_schedule(1.0)

    def schedule(count):
        missing = 1.0 - jnp.minimum(jnp.asarray(count, jnp.float32) / steps, 1.0)
        if kind == "exponential":
            return jnp.asarray(ratio, jnp.float32) ** missing
        return 1.0 - missing * (1.0 - ratio)

    return schedule


def decay(
    kind: str,
    total_steps: int,
    *,
    decay_at: Sequence[float] = (),
    decay_factor: float = 0.1,
    poly_power: float = 0.9,
    end_ratio: float = 0.0,
) -> optax.Schedule:
    """Return a schedule that falls from 1 over `total_steps`.

    constant: stays at 1.
    step: is multiplied by `decay_factor` at each share of the run in `decay_at`.
    poly: end + (1 - end) (1 - t / T) ** power, usual in semantic segmentation.
    cosine: end + (1 - end) (1 + cos(pi t / T)) / 2.

    >>> fall = decay("step", 10, decay_at=(0.5, 0.8))
    >>> [round(float(fall(t)), 3) for t in (4, 5, 7, 8)]
    [1.0, 0.1, 0.1, 0.01]

    Raises:
      ValueError: for an unknown kind, no steps, or a share outside (0, 1].
    """
    _choose("The decay (optim.schedule)", kind, DECAYS)
    if total_steps < 1:
        raise ValueError(f"The run has {total_steps} steps; it needs at least 1.")
    if kind == "constant":
        return optax.constant_schedule(1.0)
    if kind == "poly":
        return optax.polynomial_schedule(1.0, end_ratio, poly_power, total_steps)
    if kind == "cosine":
        return optax.cosine_decay_schedule(1.0, total_steps, alpha=end_ratio)

    drops: dict[int, float] = {}
    for share in decay_at:
        if not 0 < share <= 1:
            raise ValueError(
                f"optim.decay_at holds {share}; each entry is a share of the run, "
                "above 0 and at most 1 (epoch 12 of 16 is 0.75)."
            )
        step = round(share * total_steps)
        # In a very short run two drops may fall on one step: both must count.
        drops[step] = drops.get(step, 1.0) * decay_factor
    return optax.piecewise_constant_schedule(1.0, drops)


def warmup_length(optim_config: Any, steps_per_epoch: float) -> int:
    """Return the steps of warm-up: `warmup_steps` if set (>= 0), else from epochs."""
    if optim_config.warmup_steps >= 0:
        return int(optim_config.warmup_steps)
    return round(optim_config.warmup_epochs * steps_per_epoch)


def learning_rate_schedule(
    optim_config: Any, batch_size: int, total_steps: int, steps_per_epoch: float
) -> tuple[optax.Schedule, str, int]:
    """Return the run's learning rate, the reasoning in words, and the warm-up's steps.

    Args:
      optim_config: any object with the attributes of `config.optim` (configs/base.py).
      batch_size: images a step over all devices and micro-batches.
      total_steps: optimizer steps of the whole run.
      steps_per_epoch: optimizer steps an epoch, for a warm-up given in epochs.

    The parts are multiplied, as mmcv does: a decay that falls into the warm-up counts.

    Raises:
      ValueError: for a rate that is not positive, and whatever the parts refuse.
    """
    if not optim_config.lr > 0:
        raise ValueError(f"optim.lr is {optim_config.lr}; it must be above 0.")
    factor, why = batch_size_factor(
        optim_config.lr_rule,
        batch_size,
        optim_config.lr_batch,
        optim_config.linear_limit,
    )
    peak = optim_config.lr * factor
    warmup_steps = warmup_length(optim_config, steps_per_epoch)
    climb = warmup(optim_config.warmup, warmup_steps, optim_config.warmup_ratio)
    fall = decay(
        optim_config.schedule,
        total_steps,
        decay_at=tuple(optim_config.decay_at),
        decay_factor=optim_config.decay_factor,
        poly_power=optim_config.poly_power,
        end_ratio=optim_config.end_ratio,
    )

    def schedule(count):
        return peak * climb(count) * fall(count)

    reason = (
        f"learning rate {optim_config.lr:g} per {optim_config.lr_batch} x "
        f"{float(f'{factor:.4g}')} ({why}) = {peak:.4g}; "
        f"{_warmup_words(optim_config.warmup, warmup_steps, total_steps)}; "
        f"{_decay_words(optim_config, total_steps)}"
    )
    return schedule, reason, warmup_steps


def _warmup_words(kind: str, steps: int, total_steps: int) -> str:
    if steps == 0:
        return "no warm-up"
    words = f"{kind} warm-up over {steps} steps"
    if steps >= total_steps:
        words += f" (all {total_steps} steps of this run lie inside it)"
    return words


def _decay_words(optim_config: Any, total_steps: int) -> str:
    kind = optim_config.schedule
    if kind == "constant" or (kind == "step" and not optim_config.decay_at):
        return f"then constant to step {total_steps}"
    if kind == "step":
        drops = [str(round(share * total_steps)) for share in optim_config.decay_at]
        at = f"step {drops[0]}" if len(drops) == 1 else f"steps {', '.join(drops)}"
        return f"x {optim_config.decay_factor:g} at {at} of {total_steps}"
    power = f" (power {optim_config.poly_power:g})" if kind == "poly" else ""
    return f"{kind} decay{power} to x {optim_config.end_ratio:g} at step {total_steps}"
