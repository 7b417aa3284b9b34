"""AGVM's numbers for one run, resolved from a config and said in words."""

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
    end of the warm-up (the released code starts 100 steps later).

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
        start_step=warmup_steps if config.start_step == -1 else config.start_step,
        clip=tuple(config.clip),
        eps=config.eps,
        average=config.average,
        precondition=config.precondition,
        precondition_eps=optim_config.eps,
    )


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
        start += " (end of warm-up)"
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
