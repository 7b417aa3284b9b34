"""From a config to every number that follows from it, each with its reason.

`resolve` is pure: it looks at no device and no disk and prints nothing. So what a run
will be can be asked without starting one, and tested without compiling.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from agvm_jax.optim.layer_axis import Layered
from agvm_jax.training.averaging import check_decay
from agvm_jax.training.batching import BatchPlan, plan_batches
from agvm_jax.training.input_size import InputSize, evaluation_size
from agvm_jax.training.profile_window import check_profile
from agvm_jax.training.recipes import Recipe, build_optimizer
from agvm_jax.training.shard_choice import ShardChoice, choose_sharding


@dataclasses.dataclass(frozen=True)
class Resolved:
    """What a config, a data set's size and the devices decide together.

    Attributes:
      total_steps: optimizer steps in the run.
      steps_per_epoch: steps that show every image once, the last one in part.
      plan: how a batch is shared out over devices and micro-batches.
      recipe: the optimizer, with AGVM, and its learning rate.
      sharding: how the state is shared out over the devices.
      dtype: what the network computes in, "float32" or "bfloat16".
      freeze_at: parts of the backbone that stay as they were loaded.
      evaluated: how large images are in evaluation.
      reasons: topic -> why it is so, in the order in which they are told.
    """

    total_steps: int
    steps_per_epoch: int
    plan: BatchPlan
    recipe: Recipe
    sharding: ShardChoice
    dtype: str
    freeze_at: int
    evaluated: InputSize
    reasons: Mapping[str, str]


def resolve(
    config: Any,
    *,
    num_images: int,
    num_devices: int,
    platform: str,
    host_devices: int | None = None,
    layered: Layered | None = None,
) -> Resolved:
    """Returns every derived number of a run.

    Args:
      config: the final config, after the command line.
      num_images: images of the training split.
      num_devices: over all processes.
      platform: of these devices, "cpu", "gpu" or "tpu".
      host_devices: those of this process; None: all of them.
      layered: which parameters have a layer axis, see `build_optimizer`.

    Raises:
      ValueError: something in the config does not fit together, or not these devices.
    """
    check_profile(config.train.profile_steps)
    if config.train.skip_steps < 0:
        raise ValueError(
            f"train.skip_steps={config.train.skip_steps} must be 0 or more: the steps"
            " whose batches are left out."
        )
    total_steps, steps_per_epoch, steps_reason = _steps(config, num_images)
    recipe = build_optimizer(
        config.optim,
        config.agvm,
        batch_size=config.batch_size,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        layered=layered,
    )
    averages = check_decay(config.train.ema_decay)
    recipe = dataclasses.replace(recipe, ema_decay=config.train.ema_decay)
    if recipe.required_norm not in (None, config.model.norm):
        raise ValueError(
            f"optim.name={config.optim.name} is defined with {recipe.required_norm}"
            f" BatchNorm and the config has model.norm={config.model.norm}: use"
            f" --config.model.norm={recipe.required_norm}."
        )
    plan = plan_batches(
        config.batch_size,
        num_devices,
        config.micro_batch_size,
        estimator=recipe.agvm.estimator if recipe.agvm else None,
    )
    sharding = choose_sharding(
        config.train, recipe, num_devices, host_devices or num_devices
    )
    dtype, dtype_reason = compute_dtype(config.model.dtype, platform)
    freeze_at, freeze_reason = _freezing(config)
    evaluated = evaluation_size(config)
    reasons = {
        "computed in": dtype_reason,
        "frozen": freeze_reason,
        "evaluation": f"at {evaluated}",
        "steps": f"{steps_reason}; {plan}",
        "optimizer": "\n".join(recipe.reasons),
        "average": averages,
        "sharded": sharding.reason,
    }
    return Resolved(
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        plan=plan,
        recipe=recipe,
        sharding=sharding,
        dtype=dtype,
        freeze_at=freeze_at,
        evaluated=evaluated,
        reasons={topic: reason for topic, reason in reasons.items() if reason},
    )


def _steps(config: Any, num_images: int) -> tuple[int, int, str]:
    """Returns the steps of the run and of an epoch, and the sentence about both."""
    if config.batch_size < 1:
        raise ValueError(
            f"batch_size={config.batch_size} must be positive: the images of a step."
        )
    if config.steps < 0:
        raise ValueError(
            f"steps={config.steps} must be positive, or 0 to count epochs instead."
        )
    if not config.steps and not config.epochs > 0:
        raise ValueError(
            f"epochs={config.epochs:g} leaves nothing to train: use a positive number,"
            " or --config.steps."
        )
    # As the paper counts: an epoch ends with the batch that holds its last image.
    an_epoch = math.ceil(num_images / config.batch_size)
    total = config.steps or math.ceil(config.epochs * an_epoch)
    source = "config.steps" if config.steps else f"{config.epochs:g} epochs"
    return (
        total,
        an_epoch,
        (f"{total} ({source}), {an_epoch} an epoch ({num_images} images)"),
    )


def compute_dtype(wanted: str, platform: str) -> tuple[str, str]:
    """Returns what the network computes in, and why.

    Args:
      wanted: model.dtype.
      platform: "cpu", "gpu" or "tpu".
    """
    if wanted != "auto":
        return wanted, wanted
    if platform == "cpu":
        why = "float32: a CPU only emulates bfloat16, several times slower"
        return "float32", f"{why} (model.dtype=auto)"
    why = f"bfloat16: a {platform} multiplies it faster than float32"
    return "bfloat16", f"{why} (model.dtype=auto)"


def _freezing(config: Any) -> tuple[int, str]:
    """Returns how many parts of the backbone stay as they were loaded, and which.

    By default what torchvision, detectron2 and the released code of AGVM do: a ResNet
    that starts from a file keeps its stem and first stage, a Swin learns everywhere.

    Raises:
      ValueError: random weights would be frozen.
    """
    chosen, source = config.train.freeze_at, config.train.init_from
    if chosen > 0 and not source:
        raise ValueError(
            f"train.freeze_at={chosen} would keep the random weights that the backbone"
            " starts from: say where trained ones are with --config.train.init_from,"
            " or use --config.train.freeze_at=0."
        )
    if chosen < 0:
        chosen = 2 if source and config.model.backbone.startswith("resnet") else 0
    parts = ("stem", "stage 1", "stage 2", "stage 3", "stage 4")[:chosen]
    words = f"backbone's {', '.join(parts)} (train.freeze_at={chosen})"
    return chosen, words if chosen else ""
