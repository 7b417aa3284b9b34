"""AGVM's numbers for one run, resolved from a config and said in words."""

import re
from collections.abc import Callable
from typing import Any

from agvm_jax.optim.options import AgvmOptions

# Above this batch the paper measures twice as often (section 4.1: "1K").
LARGE_BATCH = 1024
WITH_SECOND_MOMENT = ("adamw", "lamb", "pmd_lamb")


def resolve_modulation(
    config: Any, optim_config: Any, *, batch_size: int, warmup_steps: int
) -> AgvmOptions:
    """Return the settings with every "by itself" value replaced by a number.

    tau = 0 becomes 10, or 5 above a batch of 1024 (paper); start_step = -1 becomes the
    end of the warm-up, and start_delay steps more (the released code: 100).

    Args:
      config: any object with the attributes of `config.agvm`.
      optim_config: any with the attributes `name` and `eps` of `config.optim`.
      batch_size: images a step.
      warmup_steps: steps of warm-up.

    Raises:
      ValueError: for a value out of range, or a preconditioned cosine without Adam.
    """
    optimizer = optim_config.name
    if config.precondition and optimizer not in WITH_SECOND_MOMENT:
        raise ValueError(
            "agvm.precondition takes the cosine of Adam's rescaled gradient, and "
            f"optim.name={optimizer} keeps no second moment; set it to False, or use "
            f"one of {', '.join(WITH_SECOND_MOMENT)}."
        )
    if config.start_step < -1:
        raise ValueError(
            f"agvm.start_step is {config.start_step}; use -1 for the end of the "
            "warm-up, or a step from 0 on."
        )
    if config.start_delay < 0 or (config.start_delay and config.start_step != -1):
        raise ValueError(
            f"agvm.start_delay is {config.start_delay} and agvm.start_step "
            f"{config.start_step}: the delay counts from the end of the warm-up, 0 or "
            "more steps, and only with start_step=-1; set it to 0 for a start_step of "
            "your own."
        )
    if config.tau < 0:
        raise ValueError(
            f"agvm.tau is {config.tau}; use 0 for the paper's choice, or a number of "
            "steps from 1 on."
        )
    large = batch_size > LARGE_BATCH
    return AgvmOptions(
        anchor=config.anchor,
        estimator=config.estimator,
        split=config.split,
        tau=config.tau or (5 if large else 10),
        alpha=config.alpha,
        start_step=(
            warmup_steps + config.start_delay
            if config.start_step == -1
            else config.start_step
        ),
        clip=tuple(config.clip),
        eps=config.eps,
        average=config.average,
        precondition=config.precondition,
        precondition_eps=optim_config.eps,
    )


def modules_of(config: Any) -> Callable[[tuple, Any], str] | None:
    """Return how parameters are grouped, as `label_tree` takes it; None: by top key.

    Args:
      config: any object with the attribute `modules` of `config.agvm`: pairs of a
        pattern and a module. The first pattern that is found in a parameter's path
        names its module, which may refer to groups of the pattern; what none is found
        in goes by its top key.

    Raises:
      ValueError: what is no pair of a regular expression and a name.
    """
    if not config.modules:
        return None
    pairs = []
    for pair in config.modules:
        try:
            pattern, name = pair
            pairs.append((re.compile(pattern), name))
        except (ValueError, TypeError, re.error) as error:
            raise ValueError(
                f"agvm.modules has {pair!r}, which is no pair (pattern of a path, "
                f"module): {error}"
            ) from error

    def label(path, leaf):
        del leaf
        where = "/".join(path)
        for pattern, name in pairs:
            if found := pattern.search(where):
                return found.expand(name)
        return path[0]

    return label


def modulation_words(
    agvm: AgvmOptions, config: Any, optimizer: str, *, batch_size: int, total_steps: int
) -> str:
    """Return the sentence that says what AGVM will do, and who chose its numbers."""
    tau = f"every {agvm.tau} steps"
    if config.tau == 0:
        side = "above" if batch_size > LARGE_BATCH else "not above"
        tau += f" (batch {side} {LARGE_BATCH})"
    start = f"from step {agvm.start_step}"
    if config.start_step == -1:
        delay = f", {config.start_delay} steps later" if config.start_delay else ""
        start += f" (end of warm-up{delay})"
    if agvm.start_step >= total_steps:
        start += f", so never in this run of {total_steps}"
    measured = agvm.estimator
    if agvm.estimator == "halves":
        measured += f" ({agvm.split})"
    if agvm.precondition:
        measured += " of Adam's rescaled gradient"
    alpha = f"alpha {agvm.alpha:g}"
    if agvm.average == "growing":
        alpha = f"a growing average up to {alpha}"
    alone = (
        "" if optimizer in ("sgd", "adamw") else "; agvm.enabled=False runs it alone"
    )
    return (
        f"AGVM around {optimizer}: phi by {measured} {tau} {start}, {alpha}, "
        f"anchor {agvm.anchor}{alone}"
    )
